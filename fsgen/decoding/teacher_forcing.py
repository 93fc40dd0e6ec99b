"""Teacher forcing: what models say at every position of texts that are already written.

Shape legend: N rows (positions of texts), K ids of a padded list, L positions of one text, B texts side
by side, H hidden width.
"""

import sys
from typing import NamedTuple

import numpy as np
import torch

from fsgen.config.schema import Settings
from fsgen.models import records
from fsgen.models.batching import pack_batches
from fsgen.models.kv_cache import RaggedKVCache
from fsgen.models.loaded_model import LoadedModel


class TeacherForced(NamedTuple):
    """What one reader left at N rows."""

    records: records.TokenRecords
    at_logits_NK: np.ndarray
    gain_N: np.ndarray
    """Largest f - s outside the list; NaN but where this reader is the tuned model, beside the small one."""

    def take(self, rows: np.ndarray) -> "TeacherForced":
        """The reading of these rows."""
        return TeacherForced(self.records.take(rows), self.at_logits_NK[rows], self.gain_N[rows])


class TextToRead(NamedTuple):
    """A text, who reads it, and the lists that they are gathered at."""

    prompt: list[int]
    ids: list[int]
    at_ids_LK: np.ndarray
    readers: tuple[str, ...]

    @property
    def length(self) -> int:
        """Tokens of prompt and text."""
        return len(self.prompt) + len(self.ids)


@torch.inference_mode()
def teacher_force(
    loaded: dict[str, LoadedModel], texts: list[TextToRead], settings: Settings, read_tokens: int
) -> list[dict[str, TeacherForced]]:
    """What each reader of each text says at all of its positions, in the order of the texts.

    The logits of row i are those that predict the text's token i. Texts of one prompt are read
    together, so that a reader sees their prompt once.
    """
    readings: list[dict[str, TeacherForced]] = [None] * len(texts)
    groups = _by_prompt(texts)
    lengths = [len(group) * max(texts[i].length for i in group) for group in groups]
    for batch in pack_batches(lengths, read_tokens):
        members = [i for group in batch for i in groups[group]]
        for i, found in zip(members, _read_batch(loaded, [texts[i] for i in members], settings), strict=True):
            readings[i] = found
    return readings


def _by_prompt(texts: list[TextToRead]) -> list[list[int]]:
    groups: dict[tuple[int, ...], list[int]] = {}
    for i, text in enumerate(texts):
        groups.setdefault(tuple(text.prompt), []).append(i)
    return list(groups.values())


def _read_batch(
    loaded: dict[str, LoadedModel], texts: list[TextToRead], settings
) -> list[dict[str, TeacherForced]]:
    """Texts with the same readers go through the heads together."""
    hidden = {role: _hidden_rows(model, role, texts) for role, model in loaded.items()}
    readings: list[dict[str, TeacherForced]] = [None] * len(texts)
    for readers in {text.readers for text in texts}:
        chosen = [i for i, text in enumerate(texts) if text.readers == readers]
        at_ids_NK = np.concatenate([texts[i].at_ids_LK for i in chosen])
        hidden_by_reader = {role: torch.cat([hidden[role][i] for i in chosen]) for role in readers}
        found = _describe(loaded, hidden_by_reader, at_ids_NK, settings)
        ends = np.cumsum([len(texts[i].ids) for i in chosen])
        for i, end in zip(chosen, ends, strict=True):
            rows = np.arange(end - len(texts[i].ids), end)
            readings[i] = {role: reading.take(rows) for role, reading in found.items()}
    return readings


def _describe(loaded: dict[str, LoadedModel], hidden: dict[str, torch.Tensor], at_ids_NK, settings) -> dict:
    """Reader to its Reading of N rows; the logits of a stretch of rows are alive at once, never of all."""
    parts = []
    for span in next(iter(loaded.values())).row_chunks(len(at_ids_NK)):
        at = at_ids_NK[span]
        logits = {role: loaded[role].logits(hidden_NH[span]) for role, hidden_NH in hidden.items()}
        gain_N = np.full(len(at), np.nan, dtype=np.float32)
        if {"small", "tuned"} <= logits.keys():
            gain_N = records.largest_gain(logits["tuned"], logits["small"], at)
        parts.append(
            {
                role: TeacherForced(records.record(x, settings.dump), records.gather(x, at), gain_N)
                for role, x in logits.items()
            }
        )
    return {role: join([part[role] for part in parts]) for role in hidden}


def join(parts: list[TeacherForced]) -> TeacherForced:
    """Readings one after the other, as one."""
    return TeacherForced(
        records.join([part.records for part in parts]),
        np.concatenate([part.at_logits_NK for part in parts]),
        np.concatenate([part.gain_N for part in parts]),
    )


def _hidden_rows(loaded: LoadedModel, role: str, texts: list[TextToRead]) -> dict[int, torch.Tensor]:
    """Text to the hidden states [L, H] that predict its tokens, of the texts that `role` reads."""
    mine = [i for i, text in enumerate(texts) if role in text.readers]
    groups = [[mine[i] for i in group] for group in _by_prompt([texts[i] for i in mine])]
    if len(groups) == len(mine):
        return dict(zip(mine, _hidden_whole(loaded, [texts[i] for i in mine]), strict=True))
    hidden = _hidden_shared(loaded, [[texts[i] for i in group] for group in groups])
    return dict(zip([i for group in groups for i in group], hidden, strict=True))


def _hidden_whole(loaded: LoadedModel, texts: list[TextToRead]) -> list[torch.Tensor]:
    """In one causal pass; padding stands on the right, unseen by all."""
    whole = [(text.prompt + text.ids)[:-1] for text in texts]
    width = max(map(len, whole))
    ids_BL = torch.tensor([ids + [0] * (width - len(ids)) for ids in whole], device=loaded.device)
    hidden_BLH = loaded.hidden_states(ids_BL, use_cache=False)
    return [hidden_BLH[i, len(t.prompt) - 1 : t.length - 1] for i, t in enumerate(texts)]


def _hidden_shared(loaded: LoadedModel, groups: list[list[TextToRead]]) -> list[torch.Tensor]:
    """Every prompt once, then the texts that continue it."""
    texts = [text for group in groups for text in group]
    reader = RaggedKVCache(loaded, sys.maxsize)
    prompts = reader.prefill([group[0].prompt for group in groups])
    last_G = np.cumsum([len(group[0].prompt) for group in groups]) - 1
    owner = np.repeat(np.arange(len(groups)), [len(group) for group in groups])
    reader.reorder(owner)
    rest = reader.append([text.ids for text in texts]).split([len(text.ids) for text in texts])
    return [torch.cat([prompts[last_G[o], None], part[:-1]]) for o, part in zip(owner, rest, strict=True)]
