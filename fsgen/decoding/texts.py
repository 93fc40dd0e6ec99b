"""Texts: where an answer ends and what follows it, and the rows that are kept of a conversation.

A text is one sequence of tokens after its prompt. It has one turn, or several: then the tokens of the
user's next question, in their template, stand in it as forced ones, and writing goes on behind them.
"""

import bisect
import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import polars as pl

from fsgen.models import tokenization
from fsgen.tasks.protocol import truncate_at_stop


class Turn(NamedTuple):
    """A finished turn, in rows of its text."""

    start: int
    """Its first row; in a later turn this is the first forced one."""
    written: int
    """Its first row that the writer chose."""
    end: int
    """The row after the one that ended it."""
    finish_reason: str
    answer_tokens: int
    """Of the written ones, how many ratios count."""


class TokenSequence(NamedTuple):
    """A text so far: its tokens, the turns that have ended, and where the next one stands."""

    ids: list[int]
    turns: tuple[Turn, ...] = ()
    start: int = 0
    written: int = 0

    @property
    def own(self) -> list[int]:
        """What has been written in the turn that is being written."""
        return self.ids[self.written :]

    def followed_by(self, token: int) -> "TokenSequence":
        """The text and one more token."""
        return self._replace(ids=[*self.ids, token])

    def forced_before(self, pos: int) -> int:
        """How many of the first `pos` tokens were given."""
        given = [(turn.start, turn.written) for turn in self.turns] + [(self.start, self.written)]
        return sum(max(0, min(written, pos) - start) for start, written in given)


@dataclass(frozen=True)
class StopRule:
    """The rule that ends the turns of one dataset's texts for one tokenizer, and what comes after them."""

    tokenizer: object
    stop_ids: tuple[int, ...]
    stops: tuple[str, ...]
    max_new_tokens: int
    """Of a turn."""
    tail: int = 0
    """Tokens written on after a text's last stop string; they are in no ratio."""
    answer: str | None = None
    """Pattern whose last match closes the answer; what a turn says after it is in no ratio."""
    bridges: dict[str, list[str]] = field(default_factory=dict)
    """Prompt to what stands between one answer and the next, for conversations alone."""

    def facts(self) -> list:
        """What of the rule decides the bytes of a text."""
        return [self.stop_ids, self.stops, self.max_new_tokens, self.tail, self.answer]

    def reasons(self, texts: list[list[int]]) -> list[str | None]:
        """For each turn so far `eos`, `stop` or `length`, or None where it goes on.

        Looks at the last token alone: a turn is to be asked about after every token.
        """
        stopped = self._completes_a_stop(texts)
        return [
            "eos" if ids[-1] in self.stop_ids
            else "stop" if stop
            else "length" if len(ids) >= self.max_new_tokens
            else None
            for ids, stop in zip(texts, stopped, strict=True)
        ]  # fmt: skip

    def advance(self, prompt_ids: Iterable[str], texts: list[TokenSequence]) -> list[TokenSequence]:
        """The texts, those turns closed that their last tokens have ended; to be asked after every token."""
        reasons = self.reasons([text.own for text in texts])
        return [
            self._close(name, text, reason) if reason else text
            for name, text, reason in zip(prompt_ids, texts, reasons, strict=True)
        ]

    def _close(self, prompt_id: str, text: TokenSequence, reason: str) -> TokenSequence:
        """The text with its turn ended and, where another follows, the tokens that lead to that."""
        end, counted = len(text.ids), self.answer_tokens(text.own, reason)
        turns = (*text.turns, Turn(text.start, text.written, end, reason, counted))
        bridges = self.bridges.get(prompt_id, [])
        forced = self._forced(bridges[len(turns) - 1], text.own) if len(turns) <= len(bridges) else []
        return TokenSequence([*text.ids, *forced], turns, end, end + len(forced))

    def is_finished(self, prompt_id: str, text: TokenSequence) -> bool:
        """Whether all turns have ended."""
        return len(text.turns) > len(self.bridges.get(prompt_id, []))

    def answer_tokens(self, ids: list[int], reason: str) -> int:
        """Rows of a turn that count: through the end of the answer.

        That is the token which completes the last match of `answer` where the turn says more after
        it. Else all count, but of a stop string the first token alone, which is the decision to stop
        as the end token is elsewhere.
        """
        said = self.tokenizer.decode(self._spoken(ids))
        kept = self.cut(said)
        closed = [match.end() for match in re.finditer(self.answer, kept)][-1:] if self.answer else []
        if closed and kept[closed[0] :].strip():
            return self._tokens_up_to(ids, closed[0])
        return self._tokens_up_to(ids, len(kept) + 1) if reason == "stop" else len(ids)

    def cut(self, text: str) -> str:
        """The text before its first stop string."""
        return truncate_at_stop(text, self.stops)

    def spell(self, ids: list[int]) -> str:
        """A turn as text: up to its stop string, end tokens not spelt."""
        return self.cut(self.tokenizer.decode(self._spoken(ids)))

    def _spoken(self, ids: list[int]) -> list[int]:
        return [i for i in ids if i not in self.stop_ids]

    def _tokens_up_to(self, ids: list[int], characters: int) -> int:
        """The least number of tokens that spell so many characters."""
        return bisect.bisect_left(
            range(len(ids)), characters, key=lambda n: len(self.tokenizer.decode(ids[:n]))
        )

    def _forced(self, bridge: str, own: list[int]) -> list[int]:
        """Ids of what leads to the next turn, less what the answer's own end already spells of it."""
        said = self.tokenizer.decode(own[-len(bridge) :])
        shared = next(n for n in range(len(bridge), -1, -1) if said.endswith(bridge[:n]))
        return self.tokenizer(bridge[shared:], add_special_tokens=False)["input_ids"]

    def _completes_a_stop(self, texts: list[list[int]]) -> list[bool]:
        if not self.stops or not texts:
            return [False] * len(texts)
        # a stop string of n bytes spans at most n tokens
        reach = max(len(stop.encode()) for stop in self.stops) + 1
        ends = self.tokenizer.batch_decode([ids[-reach:] for ids in texts])
        return [any(stop in end for stop in self.stops) for end in ends]


def stop_rule(loaded, prompts: pl.DataFrame, max_new_tokens: int, tail: int = 0) -> StopRule:
    """The rule that ends a loaded model's texts of a prompts table.

    Of the task's stop tokens those count that the vocabulary has, beside the model's own.
    """
    said = prompts.row(0, named=True)
    named = {loaded.tokenizer.get_vocab().get(token) for token in said["stop_tokens"]} - {None}
    return StopRule(
        tokenizer=loaded.tokenizer,
        stop_ids=tuple(sorted(named.union(loaded.stop_ids))),
        stops=tuple(said["stops"]),
        max_new_tokens=max_new_tokens,
        tail=tail,
        answer=said["answer"],
        bridges=tokenization.turn_separators(loaded.name, loaded.prompt, loaded.tokenizer, prompts),
    )


def hash_prompt(ids: list[int]) -> str:
    """Digest by which two stages see that they mean the same prompt ids."""
    return hashlib.sha256(np.asarray(ids, dtype=np.int64).tobytes()).hexdigest()[:16]


def text_rows(until: StopRule, prompt_id: str, prompt: list[int], text: TokenSequence) -> list[dict]:
    """A finished text as rows of TEXTS, one a turn."""
    tail = len(text.ids) - text.turns[-1].end
    rows = []
    for number, turn in enumerate(text.turns, 1):
        given = prompt if number == 1 else text.ids[turn.start : turn.written]
        kept = tail if number == len(text.turns) else 0
        rows.append(
            {
                "prompt_id": prompt_id,
                "turn": number,
                "text": until.spell(text.ids[turn.written : turn.end]),
                "tokens": turn.end - turn.written + kept,
                "answer_tokens": turn.answer_tokens,
                "tail": kept,
                "finish_reason": turn.finish_reason,
                "prompt_tokens": len(given),
                "prompt_digest": hash_prompt(given),
            }
        )
    return rows


def turns_of(texts: pl.DataFrame) -> dict[str, tuple[Turn, ...]]:
    """Prompt to the turns of its text, from one writer's rows of TEXTS."""
    found: dict[str, tuple[Turn, ...]] = {}
    for row in texts.sort("prompt_id", "turn").iter_rows(named=True):
        before = found.get(row["prompt_id"], ())
        start = before[-1].end if before else 0
        written = start + (row["prompt_tokens"] if before else 0)
        end = written + row["tokens"] - row["tail"]
        turn = Turn(start, written, end, row["finish_reason"], row["answer_tokens"])
        found[row["prompt_id"]] = (*before, turn)
    return found


class TokenFlags(NamedTuple):
    """What the tokens of texts are, one entry a token, text after text."""

    turn: np.ndarray
    forced: np.ndarray
    in_answer: np.ndarray


def token_flags(texts: list[TokenSequence]) -> TokenFlags:
    """The columns of finished texts' rows that follow from their turns."""
    size = sum(len(text.ids) for text in texts)
    found, begin = TokenFlags(np.zeros(size, np.int32), np.zeros(size, bool), np.zeros(size, bool)), 0
    for text in texts:
        for number, turn in enumerate(text.turns, 1):
            found.turn[begin + turn.start : begin + len(text.ids)] = number
            found.forced[begin + turn.start : begin + turn.written] = True
            found.in_answer[begin + turn.written : begin + turn.written + turn.answer_tokens] = True
        begin += len(text.ids)
    return found
