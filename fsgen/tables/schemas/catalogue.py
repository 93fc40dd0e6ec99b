"""Tables of what is run: models, pairs, policies, and the text of every token."""

import pyarrow as pa

from fsgen.tables import parquet
from fsgen.tables.columns import PAIR, POLICY

MODELS = parquet.schema(
    [
        ("model", pa.string(), "model, a key of params.yaml"),
        ("prompt_format", pa.string(), "plain text, or the tokenizer's chat template"),
        ("source", pa.string(), "where the checkpoint comes from: hub, path or embedded"),
        ("total_parameters", pa.int64(), "all its parameters"),
        ("non_embedding_parameters", pa.int64(), "its parameters outside vocabulary matrices"),
        ("head_parameters", pa.int64(), "parameters of the matrix that makes logits, also where it is tied"),
        ("layers", pa.int64(), "its layers"),
        ("width", pa.int64(), "attention heads times head dimension"),
        ("context", pa.int64(), "longest sequence that it was made for, in tokens"),
    ]
)
PAIRS = parquet.schema(
    [
        ("dataset", pa.string(), "dataset, a key of params.yaml; every pair runs on every one"),
        PAIR,
        ("role", pa.string(), "small, tuned (only where there is one) or large"),
        ("model", pa.string(), "model, a key of params.yaml"),
        ("non_embedding_parameters", pa.int64(), "its parameters outside vocabulary matrices"),
        ("total_parameters", pa.int64(), "all its parameters"),
        ("size_ratio", pa.float64(), "the pair's: parameters of the large model over those of the small one"),
    ]
)
POLICIES = parquet.schema(
    [
        PAIR,
        *POLICY,
        ("method_rule", pa.string(), "rule of the method, by which tokens are fused"),
        ("router_rule", pa.string(), "rule of the router, by which it calls; null for speculative decoding"),
        ("budget", pa.float64(), "call ratio that it aims at; null of a policy without one"),
        ("draft_length", pa.int64(), "tokens drafted a round; null of a policy that does not draft"),
    ]
)
VOCABULARY = parquet.schema(
    [
        ("token_id", pa.int32(), "id of a token that the model can write"),
        ("piece", pa.string(), "its text; U+FFFD stands for part of a character"),
        ("token_class", pa.string(), "word, number, punctuation, space or special"),
    ]
)
