"""What an inference engine offers to the stages: a Generator writes texts, a Scorer reads them.

Shape legend: N rows (tokens of texts), K ids of a padded list, L tokens of one text.

A stage depends on these types, and `engines.py` says which engine implements them. An engine of another kind,
such as a client of a server, implements one or both.
"""

from typing import NamedTuple, Protocol

import numpy as np

from fsgen.decoding.texts import StopRule, TokenSequence
from fsgen.models.records import TokenRecords


class Progress(Protocol):
    """A progress bar, or what takes its place."""

    def advance(self, done: int = 0, tokens: int = 0) -> None:
        """Add finished texts, and tokens that went through a model."""


class GeneratedTexts(NamedTuple):
    """Texts that a model wrote, with a record of each of their tokens."""

    texts: list[TokenSequence]
    """Their token ids, and the finish reasons of their turns."""
    records: TokenRecords
    """What the model predicted for each token, text after text."""


class Generator(Protocol):
    """Writes texts greedily."""

    def __call__(
        self, prompts: dict[str, list[int]], stop_rule: StopRule, batch_size: int, bar: Progress
    ) -> GeneratedTexts:
        """Texts of the prompts (prompt id to token ids) in their order, at most `batch_size` at a time."""


class TextToRead(NamedTuple):
    """A text, its readers, and the ids at which logits are gathered."""

    prompt: list[int]
    ids: list[int]
    at_ids_LK: np.ndarray
    """-1 where a list has ended."""
    readers: tuple[str, ...]
    """Roles."""

    @property
    def length(self) -> int:
        """Tokens of prompt and text."""
        return len(self.prompt) + len(self.ids)


class TeacherForced(NamedTuple):
    """What one reader predicts for N tokens of texts."""

    records: TokenRecords
    at_logits_NK: np.ndarray
    """Logits at the wanted ids."""
    gain_N: np.ndarray
    """Largest tuned minus small logit outside the wanted ids; NaN unless tuned and small read the text."""

    def take(self, rows: np.ndarray) -> "TeacherForced":
        """The predictions for these tokens."""
        return TeacherForced(self.records.take(rows), self.at_logits_NK[rows], self.gain_N[rows])


class Scorer(Protocol):
    """Reads texts that are already written."""

    def __call__(self, texts: list[TextToRead], max_batch_tokens: int) -> list[dict[str, TeacherForced]]:
        """For each text, reader to its predictions for the text's tokens."""
