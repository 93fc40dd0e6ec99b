"""What the ids of a model's tokens spell, as a table, so that SQL can speak of words."""

import re

from fsgen.config.schema import Settings
from fsgen.models import tokenization
from fsgen.tables import parquet, paths
from fsgen.tables.schemas.catalogue import VOCABULARY

KINDS = {"space": r"\s*", "number": r"\s*[\d.,]*\d[\d.,]*\s*", "word": r".*\w.*"}


def write_vocabulary(settings: Settings, name: str) -> None:
    """Write data/vocabulary/<name>.parquet: every usable id with its text and its kind."""
    tokenizer = tokenization.load_tokenizer(name, settings.model(name))
    ids = range(max(tokenizer.get_vocab().values()) + 1)
    pieces = tokenizer.batch_decode([[i] for i in ids], clean_up_tokenization_spaces=False)
    special = {*tokenizer.all_special_ids, *tokenizer.added_tokens_decoder}
    kinds = ["special" if i in special else kind_of(piece) for i, piece in zip(ids, pieces, strict=True)]
    table = {"token_id": [*ids], "piece": pieces, "token_class": kinds}
    parquet.write(paths.vocabulary(name), table, VOCABULARY)


def kind_of(piece: str) -> str:
    """`space` where nothing is seen, `number`, `word` where a letter occurs, else `punctuation`."""
    result = (kind for kind, pattern in KINDS.items() if re.fullmatch(pattern, piece, re.DOTALL))
    return next(result, "punctuation")
