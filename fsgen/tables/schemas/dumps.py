"""Tables that models write: records of tokens, texts, and what a rollout cost."""

import pyarrow as pa

from fsgen.tables import parquet

RECORD = [
    ("top_ids", pa.list_(pa.int32()), "ids by falling logit (ties: lowest id), see dump in params.yaml"),
    ("top_logits", pa.list_(pa.float32()), "their logits"),
    ("max_logit", pa.float32(), "largest logit"),
    ("logsumexp", pa.float32(), "log of the sum of exp(logit) over the usable vocabulary"),
    ("entropy", pa.float32(), "entropy of the next-token distribution over the usable vocabulary, nats"),
    ("min_logit", pa.float32(), "smallest logit of the usable vocabulary"),
    ("max_outside_logit", pa.float32(), "largest logit outside the list; -inf where the list is everything"),
]  # fmt: skip

AT_COLUMN = (
    "logits_at_partner_ids",
    pa.list_(pa.float32()),
    "this model's logits at the ids of the partner's list",
)


TOKENS = parquet.schema(
    [
        ("prompt_id", pa.string(), "prompt that the text answers"),
        ("turn", pa.int32(), "turn of the conversation, from 1"),
        ("pos", pa.int32(), "place of the token in the text, from 0, through all turns"),
        ("token_id", pa.int32(), "the token written here"),
        ("in_answer", pa.bool_(), "whether ratios count this row: true through the end of the answer"),
        ("from_template", pa.bool_(), "token inserted by the chat template, not generated"),
        *RECORD,
    ]
)


TEXT_COLUMNS = [
    ("prompt_id", pa.string(), "prompt that the text answers"),
    ("turn", pa.int32(), "turn of the conversation, from 1"),
    ("text", pa.string(), "what was written in this turn, up to its stop string"),
    ("tokens", pa.int32(), "tokens written, the one that ends the turn included"),
    ("answer_tokens", pa.int32(), "those of them that ratios count"),
    ("tokens_after_stop", pa.int32(), "of these, tokens kept after the one that ended the text"),
    ("finish_reason", pa.string(), "eos, stop (a stop string) or length (max_new_tokens)"),
    (
        "prompt_tokens",
        pa.int32(),
        "tokens before these that the model did not generate: the prompt, or a later turn's template tokens",
    ),
    ("prompt_hash", pa.string(), "digest of their ids"),
]
TEXTS = parquet.schema(TEXT_COLUMNS)


READS = parquet.schema(
    [
        ("writer", pa.string(), "role of the model that wrote the text: small, tuned or large"),
        ("reader", pa.string(), "role of the model that reads it"),
        ("prompt_id", pa.string(), "prompt that the text answers"),
        ("turn", pa.int32(), "turn of the conversation, from 1"),
        ("pos", pa.int32(), "place of the token in the text, from 0, through all turns"),
        ("token_id", pa.int32(), "the token that stands here"),
        ("in_answer", pa.bool_(), "whether ratios count this row"),
        ("from_template", pa.bool_(), "token inserted by the chat template, not generated"),
        *RECORD,
        AT_COLUMN,
        ("max_tuned_minus_small_outside", pa.float32(), "largest tuned minus small logit outside the list"),
    ]
)  # fmt: skip


_WRITTEN_BY = ("policy", pa.string(), "policy that wrote the text")

ROLLOUT_TOKENS = parquet.schema(
    [
        _WRITTEN_BY,
        ("prompt_id", pa.string(), "prompt that the text answers"),
        ("turn", pa.int32(), "turn of the conversation, from 1"),
        ("pos", pa.int32(), "place of the token in the text, from 0, through all turns"),
        ("token_id", pa.int32(), "the token written: fused_id if called, else default_id"),
        ("in_answer", pa.bool_(), "whether ratios count this row"),
        (
            "from_template",
            pa.bool_(),
            "token inserted by the chat template, not generated; such a row has no decision",
        ),
        ("default_id", pa.int32(), "argmax of the model that speaks when the large one is not called"),
        ("small_id", pa.int32(), "argmax of the small model, which FS-GEN compares proxy with"),
        ("fused_id", pa.int32(), "argmax of the fused score over the full vocabulary"),
        ("called", pa.bool_(), "whether the router called the large model"),
        ("mismatch", pa.bool_(), "whether fused_id differs from default_id"),
        ("max_probability", pa.float32(), "top probability of the default model"),
        ("margin", pa.float32(), "its top probability less its second"),
        ("entropy", pa.float32(), "its entropy, nats"),
        ("score", pa.float32(), "what the policy's router compares with its threshold; null without one"),
    ]
)

ROLLOUT_TEXTS = parquet.schema([_WRITTEN_BY, *TEXT_COLUMNS])

STEPS = parquet.schema(
    [
        ("role", pa.string(), "small, tuned or large"),
        (
            "shared_steps",
            pa.int64(),
            "generated positions that its model processed for all policies together",
        ),
        ("separate_steps", pa.int64(), "positions that it would process if every policy ran separately"),
        ("shared_prompt_steps", pa.int64(), "prompt positions that its model processed"),
    ]
)


ROLLOUT_LOGITS = parquet.schema(
    [
        ("reader", pa.string(), "role of the model that reads: small, tuned or large"),
        ("prompt_id", pa.string(), "test prompt"),
        ("policies", pa.list_(pa.string()), "policies that wrote this very text"),
        ("turn", pa.int32(), "turn of the conversation, from 1"),
        ("pos", pa.int32(), "place of the token in the text, from 0, through all turns"),
        ("token_id", pa.int32(), "the token that stands here"),
        ("in_answer", pa.bool_(), "whether ratios count this row"),
        ("from_template", pa.bool_(), "token inserted by the chat template, not generated"),
        ("top_ids", pa.list_(pa.int32()), "the reader's ten most likely ids, by falling logit"),
        ("top_logits", pa.list_(pa.float32()), "their logits"),
        ("logsumexp", pa.float32(), "log of the sum of exp(logit) over the usable vocabulary"),
        ("entropy", pa.float32(), "entropy of the reader's next-token distribution, nats"),
    ]
)


def layout() -> dict[str, list[str]]:
    """Names and types of the columns of every table here: what of the schemas decides a shard's bytes."""
    tables = {name: value for name, value in globals().items() if isinstance(value, pa.Schema)}
    return {name: [f"{field.name}: {field.type}" for field in tables[name]] for name in sorted(tables)}
