"""Prompts that wait for rows of the caches: how many may enter beside those there, and in what order.

Shape legend: B branches side by side.
A model's cache holds all rows as wide as the widest, so that one long prompt would widen those of all others.
Prompts therefore enter by width, the narrow first, and none beside one of less than half its width.
"""

from collections import deque
from itertools import groupby
from typing import NamedTuple

from fsgen.decoding.texts import TokenSequence


class PendingText(NamedTuple):
    """A rider that the models have to take on: which one, on which prompt, and its text so far."""

    rider: int
    prompt: int
    text: TokenSequence


class AdmissionQueue:
    """Riders that wait, all of one prompt together; `widths` are tokens of every prompt and its answer."""

    def __init__(self, starts: list[PendingText], widths: list[int], rows: int):
        def turn(start: PendingText) -> tuple:
            text = start.text.ids  # beside those that begin alike
            return widths[start.prompt], start.prompt, text[:-1], text

        ordered = sorted(starts, key=turn)
        self._groups = deque([*group] for _, group in groupby(ordered, key=lambda start: start.prompt))
        self._widths, self._rows = widths, rows

    def __len__(self) -> int:
        return len(self._groups)

    def enter(self, prompt_B: list[int]) -> list[list[PendingText]]:
        """Riders of the prompts that may enter beside branches of these, once a quarter of the rows is free.

        One prompt enters whole, also where it takes more rows than there are.
        """
        room, found = self._rows - len(prompt_B), []
        if not self._groups or (prompt_B and room < max(1, self._rows // 4)):
            return found
        widest = 2 * min(self._widths[prompt] for prompt in prompt_B or [self._next()])
        while self._groups and room > 0 and self._widths[self._next()] <= widest:
            found.append(self._groups.popleft())
            room -= len({tuple(start.text.ids) for start in found[-1]})
        return found

    def _next(self) -> int:
        """The prompt whose turn it is."""
        return self._groups[0][0].prompt
