"""What tables store of finished texts: a row a turn, and flags of every token.

`turns_of` gives back the turns that `text_rows` wrote.
"""

import hashlib
from typing import NamedTuple

import numpy as np
import polars as pl

from fsgen.decoding.texts import StopRule, TokenSequence, Turn


def hash_prompt(ids: list[int]) -> str:
    """Digest of prompt ids, by which two stages check that they use the same ones."""
    return hashlib.sha256(np.asarray(ids, dtype=np.int64).tobytes()).hexdigest()[:16]


def text_rows(rule: StopRule, prompt_id: str, prompt: list[int], text: TokenSequence) -> list[dict]:
    """A finished text as rows of TEXTS, one for each turn."""
    last = len(text.turns)
    rows = []
    for number, turn in enumerate(text.turns, 1):
        given = prompt if number == 1 else text.ids[turn.start : turn.written]
        tokens_after_stop = len(text.ids) - turn.end if number == last else 0
        rows.append(
            {
                "prompt_id": prompt_id,
                "turn": number,
                "text": rule.decode_turn(text.ids[turn.written : turn.end]),
                "tokens": turn.end - turn.written + tokens_after_stop,
                "answer_tokens": turn.answer_tokens,
                "tokens_after_stop": tokens_after_stop,
                "finish_reason": turn.finish_reason,
                "prompt_tokens": len(given),
                "prompt_hash": hash_prompt(given),
            }
        )
    return rows


def turns_of(texts: pl.DataFrame) -> dict[str, tuple[Turn, ...]]:
    """Prompt id to the turns of its text, from one writer's rows of TEXTS in the order of turns."""
    turns: dict[str, tuple[Turn, ...]] = {}
    for row in texts.iter_rows(named=True):
        earlier = turns.get(row["prompt_id"], ())
        start = earlier[-1].end if earlier else 0
        written = start + (row["prompt_tokens"] if earlier else 0)
        end = written + row["tokens"] - row["tokens_after_stop"]
        turn = Turn(start, written, end, row["finish_reason"], row["answer_tokens"])
        turns[row["prompt_id"]] = (*earlier, turn)
    return turns


class TokenFlags(NamedTuple):
    """What the tokens of texts are, one entry for each token, text after text."""

    turn: np.ndarray
    """Number of the turn, from 1."""
    from_template: np.ndarray
    in_answer: np.ndarray


def token_flags(texts: list[TokenSequence]) -> TokenFlags:
    """The columns of finished texts' rows that follow from their turns."""
    size = sum(len(text.ids) for text in texts)
    flags = TokenFlags(np.zeros(size, np.int32), np.zeros(size, bool), np.zeros(size, bool))
    first = 0
    for text in texts:
        for number, turn in enumerate(text.turns, 1):
            flags.turn[first + turn.start : first + len(text.ids)] = number
            flags.from_template[first + turn.start : first + turn.written] = True
            flags.in_answer[first + turn.written : first + turn.written + turn.answer_tokens] = True
        first += len(text.ids)
    return flags
