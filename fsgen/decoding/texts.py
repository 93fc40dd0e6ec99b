"""Texts as token sequences: where a turn ends, and what follows it.

A text is one sequence of tokens after its prompt. It has one turn or several. Between two turns are the
tokens of the user's next question with its template; the model does not choose these.

Example: a conversation of two turns, with `>` for the tokens of the next question and `.` for an end token.

    ids          a b . > > > c d .
    first turn   start 0, written 0, end 3
    second turn  start 3, written 6, end 9
"""

import bisect
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

import polars as pl

from fsgen.models import tokenization
from fsgen.models.spec import ModelSpec
from fsgen.tasks.protocol import truncate_at_stop


class Turn(NamedTuple):
    """A finished turn, in positions of its text."""

    start: int
    """Its first token; in a later turn this is the first token of the template."""
    written: int
    """Its first token that the writer chose."""
    end: int
    """The position after its last token."""
    finish_reason: str
    """eos, stop or length."""
    answer_tokens: int
    """How many of the written tokens ratios count."""


class TokenSequence(NamedTuple):
    """A text so far: its tokens, the turns that have ended, and where the next one begins."""

    ids: list[int]
    turns: tuple[Turn, ...] = ()
    start: int = 0
    """First token of the turn that is being written."""
    written: int = 0
    """Its first token that the writer chooses."""

    @property
    def turn_ids(self) -> list[int]:
        """The tokens chosen so far in the turn that is being written."""
        return self.ids[self.written :]

    def followed_by(self, token: int) -> "TokenSequence":
        """The text and one more token."""
        return self._replace(ids=[*self.ids, token])

    def template_tokens_before(self, pos: int) -> int:
        """How many of the first `pos` tokens the template inserted."""
        spans = [(turn.start, turn.written) for turn in self.turns] + [(self.start, self.written)]
        return sum(max(0, min(written, pos) - start) for start, written in spans)


@dataclass(frozen=True)
class StopRule:
    """The rule that ends the turns of a dataset's texts for one tokenizer, and what follows a turn."""

    tokenizer: object
    stop_ids: tuple[int, ...]
    stops: tuple[str, ...]
    max_new_tokens: int
    """Of a turn."""
    tokens_after_stop: int = 0
    """Tokens that are still written after a text's last stop string; no ratio counts them."""
    answer: str | None = None
    """Pattern whose last match closes the answer; no ratio counts the tokens of a turn behind it."""
    turn_separators: dict[str, list[str]] = field(default_factory=dict)
    """Prompt id to the text between one answer and the next, for conversations only."""

    def fingerprint_facts(self) -> list:
        """What of the rule, apart from separators, determines the bytes of a text."""
        return [self.stop_ids, self.stops, self.max_new_tokens, self.tokens_after_stop, self.answer]

    def finish_reasons(self, turns: list[list[int]]) -> list[str | None]:
        """For each turn so far `eos`, `stop` or `length`; None if it goes on.

        Only the last token is looked at, so this is called after every token.
        """
        is_stopped = self._complete_stop_strings(turns)
        return [
            "eos" if ids[-1] in self.stop_ids
            else "stop" if stopped
            else "length" if len(ids) >= self.max_new_tokens
            else None
            for ids, stopped in zip(turns, is_stopped, strict=True)
        ]  # fmt: skip

    def close_finished_turns(
        self, prompt_ids: Iterable[str], texts: list[TokenSequence]
    ) -> list[TokenSequence]:
        """The texts, with the turns closed that their last tokens have ended; called after every token."""
        reasons = self.finish_reasons([text.turn_ids for text in texts])
        return [
            self._close(prompt_id, text, reason) if reason else text
            for prompt_id, text, reason in zip(prompt_ids, texts, reasons, strict=True)
        ]

    def _close(self, prompt_id: str, text: TokenSequence, reason: str) -> TokenSequence:
        """The text with its turn ended and, if another follows, the template tokens that lead to it."""
        end = len(text.ids)
        answer_tokens = self.answer_tokens(text.turn_ids, reason)
        turns = (*text.turns, Turn(text.start, text.written, end, reason, answer_tokens))
        separators = self.turn_separators.get(prompt_id, [])
        is_last = len(turns) > len(separators)
        inserted = [] if is_last else self._template_ids(separators[len(turns) - 1], text.turn_ids)
        return TokenSequence([*text.ids, *inserted], turns, end, end + len(inserted))

    def is_finished(self, prompt_id: str, text: TokenSequence) -> bool:
        """Whether all turns have ended."""
        return len(text.turns) > len(self.turn_separators.get(prompt_id, []))

    def answer_tokens(self, ids: list[int], reason: str) -> int:
        """How many tokens of a finished turn count in ratios: those through the end of the answer.

        The answer ends with the last match of `answer` if the turn goes on behind it. Otherwise all tokens
        count, but only the first one of a stop string: it is the decision to stop, as an end token is.
        """
        text = self.truncate(self._decode(ids))
        matches = list(re.finditer(self.answer, text)) if self.answer else []
        if matches and text[matches[-1].end() :].strip():
            return self._count_tokens(ids, matches[-1].end())
        return self._count_tokens(ids, len(text) + 1) if reason == "stop" else len(ids)

    def truncate(self, text: str) -> str:
        """The text before its first stop string."""
        return truncate_at_stop(text, self.stops)

    def decode_turn(self, ids: list[int]) -> str:
        """A turn as text: up to its stop string, without end tokens."""
        return self.truncate(self._decode(ids))

    def _decode(self, ids: list[int]) -> str:
        return self.tokenizer.decode([token for token in ids if token not in self.stop_ids])

    def _count_tokens(self, ids: list[int], characters: int) -> int:
        """The least number of tokens whose text has so many characters."""

        def text_length(count: int) -> int:
            return len(self.tokenizer.decode(ids[:count]))

        return bisect.bisect_left(range(len(ids)), characters, key=text_length)

    def _template_ids(self, separator: str, turn_ids: list[int]) -> list[int]:
        """Ids of a separator, less the beginning with which the turn already ends."""
        ending = self.tokenizer.decode(turn_ids[-len(separator) :])
        shared = next(n for n in range(len(separator), -1, -1) if ending.endswith(separator[:n]))
        return self.tokenizer(separator[shared:], add_special_tokens=False)["input_ids"]

    def _complete_stop_strings(self, turns: list[list[int]]) -> list[bool]:
        """Whether each turn ends with a token that completes a stop string."""
        if not self.stops or not turns:
            return [False] * len(turns)
        # a stop string of n bytes spans at most n tokens
        reach = max(len(stop.encode()) for stop in self.stops) + 1
        endings = self.tokenizer.batch_decode([ids[-reach:] for ids in turns])
        return [any(stop in ending for stop in self.stops) for ending in endings]


def stop_rule(
    model: ModelSpec, prompts: pl.DataFrame, max_new_tokens: int, tokens_after_stop: int = 0
) -> StopRule:
    """The rule that ends a model's texts of a prompts table.

    Turns end at the model's stop ids, and at those of the task's stop tokens that the vocabulary has.
    """
    task = prompts.row(0, named=True)  # the task's columns are the same in every row
    task_ids = {model.tokenizer.get_vocab().get(token) for token in task["stop_tokens"]} - {None}
    separators = tokenization.turn_separators(model.name, model.prompt_format, model.tokenizer, prompts)
    return StopRule(
        tokenizer=model.tokenizer,
        stop_ids=tuple(sorted(task_ids.union(model.stop_ids))),
        stops=tuple(task["stops"]),
        max_new_tokens=max_new_tokens,
        tokens_after_stop=tokens_after_stop,
        answer=task["answer"],
        turn_separators=separators,
    )
