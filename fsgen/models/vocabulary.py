"""What the ids of a model's tokens spell, as a table, so that SQL can speak of words."""

import re

import pyarrow as pa

from fsgen.config.schema import Settings
from fsgen.models import tokenization
from fsgen.tables import parquet, paths

VOCABULARY = parquet.schema(
    [
        ("token_id", pa.int32(), "id of a token that the model can write"),
        ("piece", pa.string(), "its text; U+FFFD stands for part of a character"),
        ("kind", pa.string(), "word, number, punctuation, space or special"),
    ]
)
KINDS = {"space": r"\s*", "number": r"\s*[\d.,]*\d[\d.,]*\s*", "word": r".*\w.*"}


def write_vocabulary(settings: Settings, name: str) -> None:
    """Write data/vocabulary/<name>.parquet: every usable id with its text and its kind."""
    tokenizer = tokenization.load_tokenizer(name, settings.named("models", name))
    ids = range(max(tokenizer.get_vocab().values()) + 1)
    pieces = tokenizer.batch_decode([[i] for i in ids], clean_up_tokenization_spaces=False)
    special = {*tokenizer.all_special_ids, *tokenizer.added_tokens_decoder}
    kinds = ["special" if i in special else kind_of(piece) for i, piece in zip(ids, pieces, strict=True)]
    table = {"token_id": [*ids], "piece": pieces, "kind": kinds}
    parquet.write(paths.vocabulary(name), table, VOCABULARY)


def kind_of(piece: str) -> str:
    """`space` where nothing is seen, `number`, `word` where a letter occurs, else `punctuation`."""
    found = (kind for kind, pattern in KINDS.items() if re.fullmatch(pattern, piece, re.DOTALL))
    return next(found, "punctuation")
