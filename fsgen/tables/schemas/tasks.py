"""Tables that tasks write: prompts, and verdicts on what was answered."""

import pyarrow as pa

from fsgen.tables import parquet

MESSAGE = pa.struct([("role", pa.string()), ("content", pa.string())])

FOLLOW_UP = pa.struct([("message", pa.string()), ("plain", pa.string())])

PROMPTS = parquet.schema(
    [
        ("prompt_id", pa.string(), "name of the prompt: task, split and row number"),
        ("order", pa.int32(), "place in the seeded order, from 0; a raised limit only appends"),
        ("split", pa.string(), "calibration (routers are fitted on it) or test (results count it)"),
        ("messages", pa.list_(MESSAGE), "the conversation that a chat template renders"),
        ("plain", pa.string(), "the text for models with prompt_format: plain"),
        ("follow_ups", pa.list_(FOLLOW_UP), "what the user says after each answer but the last"),
        ("stops", pa.list_(pa.string()), "strings that end a turn and are no part of it"),
        ("stop_tokens", pa.list_(pa.string()), "tokens that do so where a vocabulary has them"),
        ("answer", pa.string(), "pattern whose last match closes the answer; null where all belongs to it"),
        ("gold", pa.string(), "the task's gold columns, as a JSON object"),
    ]
)


VERDICTS = [
    ("prompt_id", pa.string(), "prompt that the text answers"),
    ("turn", pa.int32(), "turn of the conversation, from 1"),
    ("split", pa.string(), "calibration or test"),
    ("verdict", pa.string(), "right, wrong or unknown (no answer found); null where a judge rates instead"),
    ("extracted", pa.string(), "the answer that the verdict rests on; null where there is none"),
    ("strict", pa.string(), "verdict on the answer in the task's own format"),
    ("flexible", pa.string(), "verdict on the most likely answer in any format"),
    ("outcome", pa.string(), "how a program ended (pass, fail, ...); rated or unrated by a judge"),
    ("detail", pa.string(), "why: what a program ended with, or the judge's reply"),
    ("rating", pa.float32(), "a judge's rating, 1 to 10; null without one"),
]  # fmt: skip

MODEL_GRADES = parquet.schema(VERDICTS)

POLICY_GRADES = parquet.schema([("policy", pa.string(), "policy that wrote the text"), *VERDICTS])
