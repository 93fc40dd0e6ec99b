"""Tables of the `evaluate` stage: counts, costs and verdicts per test prompt."""

import pyarrow as pa

from fsgen.tables import parquet

RATINGS = [
    ("rating", pa.float64(), "mean of a judge's ratings of the turns, 1 to 10; null without any"),
    ("rated_turns", pa.int64(), "turns with a rating"),
    ("unrated_turns", pa.int64(), "turns for which the judge replied without a rating"),
]

COSTS = [
    ("large_forward_passes", pa.int64(), "forward passes of the large model"),
    ("large_tokens_processed", pa.int64(), "generated tokens it processed, rejected drafts included"),
    ("large_prompt_tokens_processed", pa.int64(), "prompt tokens it processed; 0 if never called"),
    ("flops", pa.float64(), "floating-point operations of all models on this text"),
]  # fmt: skip

POLICIES = parquet.schema(
    [
        ("pair", pa.string(), "pair, a key of params.yaml"),
        ("policy", pa.string(), "policy"),
        ("prompt_id", pa.string(), "test prompt"),
        ("tokens", pa.int64(), "tokens of the answer: the denominator of every ratio"),
        ("calls", pa.int64(), "answer tokens at which the large model was called; rounds, for speculative"),
        ("mismatches", pa.int64(), "answer tokens where fused and default token differ"),
        ("interventions", pa.int64(), "calls that changed the token"),
        ("mismatches_vs_small", pa.int64(), "answer tokens where fused and small model's token differ"),
        *COSTS,
        ("finish_reason", pa.string(), "eos, stop or length; length if any turn was cut off"),
        ("verdict", pa.string(), "right, wrong or unknown; null where a judge rates instead"),
        *RATINGS,
    ]
)

LARGE_TEXTS = parquet.schema(
    [
        ("pair", pa.string(), "pair, a key of params.yaml"),
        ("method", pa.string(), "method"),
        ("prompt_id", pa.string(), "test prompt"),
        ("tokens", pa.int64(), "answer tokens of the large model's own text"),
        ("mismatches", pa.int64(), "those where fused and default token differ"),
        ("certified", pa.int64(), "those whose fused token is proven over the full vocabulary"),
    ]
)

MODELS = parquet.schema(
    [
        ("model", pa.string(), "model, a key of params.yaml"),
        ("prompt_id", pa.string(), "test prompt"),
        ("tokens", pa.int64(), "answer tokens of its own text"),
        ("finish_reason", pa.string(), "eos, stop or length; length if any turn was cut off"),
        ("verdict", pa.string(), "right, wrong or unknown; null where a judge rates instead"),
        *RATINGS,
    ]
)

ESTIMATES = parquet.schema(
    [
        ("pair", pa.string(), "pair, a key of params.yaml"),
        ("policy", pa.string(), "policy"),
        ("prompt_id", pa.string(), "test prompt"),
        ("tokens", pa.int64(), "answer tokens of the default model's text"),
        ("calls", pa.int64(), "those at which the router calls"),
        ("interventions", pa.int64(), "those of the calls that change the token"),
        ("on_policy", pa.int64(), "those that the policy's own text shares"),
        ("certified", pa.int64(), "those whose fused token is proven over the full vocabulary"),
    ]
)

STEPS = parquet.schema(
    [
        ("pair", pa.string(), "pair, a key of params.yaml"),
        ("role", pa.string(), "small, tuned or large"),
        ("shared_steps", pa.int64(), "generated positions that its model processed in the rollout"),
        ("separate_steps", pa.int64(), "positions that it would process if every policy ran separately"),
    ]
)
TABLES = {
    "policies": POLICIES,
    "large_texts": LARGE_TEXTS,
    "models": MODELS,
    "estimates": ESTIMATES,
    "steps": STEPS,
}
