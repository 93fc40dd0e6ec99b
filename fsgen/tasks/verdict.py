"""What a grader says of one text."""

from typing import Literal, NamedTuple

Judgement = Literal["right", "wrong", "unknown"]


class Verdict(NamedTuple):
    """A task's judgement of one text, and how it came about."""

    verdict: Judgement
    """What counts."""
    extracted: str | None
    """The part of the text that was compared with the gold answer; None where there was none."""
    strict: Judgement
    """Judged by the answer in the task's own format; `unknown` where the format is not kept."""
    flexible: Judgement
    """Judged by the most likely answer, whatever the format."""
