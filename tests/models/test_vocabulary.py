"""Tests of `vocabulary`: every id has its text, and classes are what a reader expects."""

import pytest

from fsgen.models import vocabulary
from fsgen.tables import parquet

PIECES = {
    " the": "word", "über": "word", "x2": "word", "don't": "word", "7": "number", " 1,000": "number",
    "3.5": "number", "+": "punctuation", ".\n": "punctuation", "�": "punctuation", "": "space",
    "\n\n": "space", " ": "space", "日": "word",
}  # fmt: skip


@pytest.mark.parametrize(("piece", "kind"), PIECES.items())
def test_pieces_have_the_kind_that_a_reader_would_name(piece, kind):
    """Letters make a word, digits alone a number, blanks a space, the rest is punctuation."""
    assert kind == vocabulary.kind_of(piece)


def test_every_usable_id_is_spelt_once(tiny_world):
    """The table has a row an id of the tokenizer, in order, end and unknown tokens as special ones."""
    vocabulary.write_vocabulary(tiny_world, "small")
    table = parquet.read("data/vocabulary/small.parquet")

    assert [*range(30)] == table["token_id"].to_list()
    assert [f"w{i}" for i in range(28)] == table["piece"].to_list()[:28]
    assert table["token_class"].to_list() == ["word"] * 28 + ["special"] * 2
