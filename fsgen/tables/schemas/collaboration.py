"""Tables of fused tokens, simulated policies and router scores along the dumped texts."""

import pyarrow as pa

from fsgen.tables import parquet

FUSED = parquet.schema(
    [
        ("method", pa.string(), "method, a key of params.yaml"),
        ("writer", pa.string(), "role of the model that wrote the text: large, small or tuned"),
        ("prompt_id", pa.string(), "prompt that the text answers"),
        ("turn", pa.int32(), "turn of the conversation, from 1"),
        ("pos", pa.int32(), "place of the token in the text, from 0, through all turns"),
        ("in_answer", pa.bool_(), "whether ratios count this row"),
        ("from_template", pa.bool_(), "token inserted by the chat template, not generated"),
        ("default_id", pa.int32(), "what the method emits here without the large model"),
        ("small_id", pa.int32(), "what the small model says here"),
        ("fused_id", pa.int32(), "the method's collaborative token"),
        ("mismatch", pa.bool_(), "whether fused_id differs from default_id"),
        ("certified", pa.bool_(), "whether the stored lists prove fused_id over the whole vocabulary"),
        ("acceptance_low", pa.float32(), "lower bound of the sampled acceptance rate; speculative rows only"),
        ("acceptance_high", pa.float32(), "its upper bound"),
    ]
)  # fmt: skip


SIMULATED = parquet.schema(
    [
        ("policy", pa.string(), "policy that is simulated"),
        ("prompt_id", pa.string(), "test prompt"),
        ("turn", pa.int32(), "turn of the conversation, from 1"),
        ("pos", pa.int32(), "place in the default model's own text, from 0"),
        ("in_answer", pa.bool_(), "whether ratios count this row"),
        ("called", pa.bool_(), "whether the router calls the large model here"),
        ("mismatch", pa.bool_(), "whether the fused token differs from the default one"),
        ("certified", pa.bool_(), "whether the stored lists prove the mismatch over the whole vocabulary"),
        ("on_policy", pa.bool_(), "whether the policy provably still writes this text; else an estimate"),
    ]
)  # fmt: skip

SCORES = parquet.schema(
    [
        ("method", pa.string(), "method, a key of params.yaml"),
        ("writer", pa.string(), "role of the model that wrote the text: large, or the default model"),
        ("prompt_id", pa.string(), "test prompt"),
        ("turn", pa.int32(), "turn of the conversation, from 1"),
        ("pos", pa.int32(), "place of the token in the text, from 0, through all turns"),
        ("in_answer", pa.bool_(), "whether ratios count this row"),
        ("mismatch", pa.bool_(), "whether the method's fused token differs from the default one"),
        ("max_probability", pa.float32(), "top probability of the default model"),
        ("margin", pa.float32(), "its top probability less its second"),
        ("entropy", pa.float32(), "its entropy, nats"),
        ("logistic", pa.float32(), "P(mismatch) by the logistic router; null where no policy uses it"),
        ("svm", pa.float32(), "P(mismatch) by the support vector machine; null where no policy uses it"),
    ]
)  # fmt: skip
