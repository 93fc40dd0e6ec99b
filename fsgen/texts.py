"""Texts: where one ends and where its answer does, and the row that is kept of it."""

import hashlib
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import polars as pl
import pyarrow as pa

from fsgen import store

TEXTS = store.schema(
    [
        ("prompt_id", pa.string(), "prompt that the text answers"),
        ("turn", pa.int32(), "turn of the conversation, from 1"),
        ("text", pa.string(), "the text, up to its stop string"),
        ("tokens", pa.int32(), "tokens written, the one that ends the text included"),
        ("answer_tokens", pa.int32(), "those of them that ratios count"),
        ("tail", pa.int32(), "of these, tokens kept after the one that ended the text"),
        ("finish_reason", pa.string(), "eos, stop (a stop string) or length (max_new_tokens)"),
        ("prompt_tokens", pa.int32(), "tokens of the prompt"),
        ("prompt_digest", pa.string(), "digest of the prompt's token ids"),
    ]
)


class Text(NamedTuple):
    """One finished text."""

    ids: list[int]
    finish_reason: str
    answer_tokens: int
    tail: int = 0
    """Tokens after the one that ended it."""


@dataclass(frozen=True)
class Ending:
    """The rule that ends the texts of one dataset for one tokenizer."""

    tokenizer: object
    stop_ids: tuple[int, ...]
    stops: tuple[str, ...]
    max_new_tokens: int
    tail: int = 0
    """Tokens written on after a stop string; they are in no ratio."""

    def reasons(self, texts: list[list[int]]) -> list[str | None]:
        """For each text so far `eos`, `stop` or `length`, or None where it goes on.

        Looks at the last token alone: a text is to be asked about after every token.
        """
        stopped = self._completes_a_stop(texts)
        return [
            "eos" if ids[-1] in self.stop_ids
            else "stop" if stop
            else "length" if len(ids) >= self.max_new_tokens
            else None
            for ids, stop in zip(texts, stopped, strict=True)
        ]  # fmt: skip

    def answer_tokens(self, ids: list[int], reason: str) -> int:
        """Rows that count: all, or through the first token that reaches into the stop string.

        That token is the model's decision to stop, as the end token is elsewhere.
        """
        if reason != "stop":
            return len(ids)
        count = len(ids)
        while count > 1 and self._stop_start(ids) < len(self.tokenizer.decode(ids[: count - 1])):
            count -= 1
        return count

    def cut(self, text: str) -> str:
        """The text before its first stop string."""
        return cut(text, self.stops)

    def _stop_start(self, ids: list[int]) -> int:
        return len(self.cut(self.tokenizer.decode(ids)))

    def _completes_a_stop(self, texts: list[list[int]]) -> list[bool]:
        if not self.stops:
            return [False] * len(texts)
        # a stop string of n bytes spans at most n tokens
        reach = max(len(stop.encode()) for stop in self.stops) + 1
        ends = self.tokenizer.batch_decode([ids[-reach:] for ids in texts])
        return [any(stop in end for stop in self.stops) for end in ends]


def cut(text: str, stops: tuple[str, ...]) -> str:
    """The text before its first stop string."""
    return text[: min((at for stop in stops if (at := text.find(stop)) >= 0), default=len(text))]


def ending(loaded, prompts: pl.DataFrame, max_new_tokens: int, tail: int = 0) -> Ending:
    """The rule that ends a loaded model's texts of a prompts table."""
    stops = tuple(prompts["stops"][0].to_list())
    return Ending(loaded.tokenizer, loaded.stop_ids, stops, max_new_tokens, tail)


def prompt_digest(ids: list[int]) -> str:
    """Digest by which two stages see that they mean the same prompt ids."""
    return hashlib.sha256(np.asarray(ids, dtype=np.int64).tobytes()).hexdigest()[:16]


def text_row(until: Ending, prompt_id: str, prompt: list[int], text: Text) -> dict:
    """A text as a row of TEXTS: cut at its stop string, end tokens not spelt."""
    body = [i for i in text.ids[: len(text.ids) - text.tail] if i not in until.stop_ids]
    return {
        "prompt_id": prompt_id,
        "turn": 1,
        "text": until.cut(until.tokenizer.decode(body)),
        "tokens": len(text.ids),
        "answer_tokens": text.answer_tokens,
        "tail": text.tail,
        "finish_reason": text.finish_reason,
        "prompt_tokens": len(prompt),
        "prompt_digest": prompt_digest(prompt),
    }
