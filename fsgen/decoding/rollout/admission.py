"""Which prompts enter the caches next, and when.

Shape legend: B branches in the caches.

A cache stores every row as wide as the widest text, so one long prompt widens the rows of all others.
Prompts therefore enter by width, the narrowest first. A prompt waits as long as the caches hold one of less
than half its width. All pending texts of a prompt enter together, so that equal texts share a branch.
"""

from collections import deque
from itertools import groupby

from fsgen.decoding.rollout.runs import PendingText


class AdmissionQueue:
    """Pending texts that wait for rows of the caches, grouped by prompt.

    `widths` are the largest numbers of tokens, of prompt and answer, by prompt. `rows` is the number of
    branches that the caches should hold at most.
    """

    def __init__(self, pending: list[PendingText], widths: list[int], rows: int):
        def order(entry: PendingText) -> tuple:
            ids = entry.text.ids  # texts that begin alike become neighbours
            return widths[entry.prompt], entry.prompt, ids[:-1], ids

        ordered = sorted(pending, key=order)
        self._groups = deque([*group] for _, group in groupby(ordered, key=lambda entry: entry.prompt))
        self._widths, self._rows = widths, rows

    def __len__(self) -> int:
        """Prompts that wait."""
        return len(self._groups)

    def admit(self, prompt_B: list[int]) -> list[list[PendingText]]:
        """Remove and return the texts that may enter now, one list a prompt; `prompt_B` are in the caches.

        None enter before a quarter of the rows is free. A prompt enters whole, even if it needs more rows
        than are free.
        """
        free = self._rows - len(prompt_B)
        if not self._groups or (prompt_B and free < max(1, self._rows // 4)):
            return []
        widest = 2 * min(self._widths[prompt] for prompt in prompt_B or [self._next_prompt()])
        admitted = []
        while self._groups and free > 0 and self._widths[self._next_prompt()] <= widest:
            admitted.append(self._groups.popleft())
            free -= len({tuple(entry.text.ids) for entry in admitted[-1]})
        return admitted

    def _next_prompt(self) -> int:
        return self._groups[0][0].prompt
