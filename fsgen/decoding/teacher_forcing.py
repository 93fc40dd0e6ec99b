"""The local Scorer: what models in memory predict at every position of texts that are already written.

Shape legend: N rows (positions of texts), K ids of a padded list, L positions of one text, B texts side
by side, H hidden width, G prompts.
"""

import sys
from collections.abc import Iterable

import numpy as np
import torch

from fsgen.config.schema import DumpConfig
from fsgen.decoding.protocol import TeacherForced, TextToRead
from fsgen.models import records
from fsgen.models.batching import pack_batches
from fsgen.models.kv_cache import RaggedKVCache
from fsgen.models.loaded_model import LoadedModel

Prompt = tuple[int, ...]


@torch.inference_mode()
def teacher_force(
    loaded: dict[str, LoadedModel], dump: DumpConfig, texts: list[TextToRead], max_batch_tokens: int
) -> list[dict[str, TeacherForced]]:
    """For each text, reader to what it predicts at all of its positions.

    Row i of a text predicts its token i. Texts of one prompt are in one batch, so that a reader reads their
    prompt once.
    """
    groups = _group_by_prompt(enumerate(texts))
    lengths = [len(group) * max(texts[i].length for i in group) for group in groups]
    results: dict[int, dict[str, TeacherForced]] = {}
    for batch in pack_batches(lengths, max_batch_tokens):
        members = [i for group in batch for i in groups[group]]
        read = _read_batch(loaded, dump, [texts[i] for i in members])
        results |= dict(zip(members, read, strict=True))
    return [results[i] for i in range(len(texts))]


def _group_by_prompt(texts: Iterable[tuple[int, TextToRead]]) -> list[list[int]]:
    """The numbers of texts, those of one prompt together."""
    groups: dict[Prompt, list[int]] = {}
    for i, text in texts:
        groups.setdefault(tuple(text.prompt), []).append(i)
    return list(groups.values())


def _read_batch(
    loaded: dict[str, LoadedModel], dump: DumpConfig, texts: list[TextToRead]
) -> list[dict[str, TeacherForced]]:
    """The results for a batch of texts; those with the same readers go through the heads together."""
    hidden = {role: _hidden_states(model, role, texts) for role, model in loaded.items()}
    results: dict[int, dict[str, TeacherForced]] = {}
    for readers in {text.readers for text in texts}:
        chosen = [i for i, text in enumerate(texts) if text.readers == readers]
        at_ids_NK = np.concatenate([texts[i].at_ids_LK for i in chosen])
        hidden_by_reader = {role: torch.cat([hidden[role][i] for i in chosen]) for role in readers}
        predicted = _predict(loaded, dump, hidden_by_reader, at_ids_NK)
        ends = np.cumsum([len(texts[i].ids) for i in chosen])
        for i, end in zip(chosen, ends, strict=True):
            rows = np.arange(end - len(texts[i].ids), end)
            results[i] = {role: result.take(rows) for role, result in predicted.items()}
    return [results[i] for i in range(len(texts))]


def _predict(
    loaded: dict[str, LoadedModel],
    dump: DumpConfig,
    hidden: dict[str, torch.Tensor],
    at_ids_NK: np.ndarray,
) -> dict[str, TeacherForced]:
    """Reader to its predictions at N rows, given its hidden states [N, H]."""
    chunks = next(iter(loaded.values())).row_chunks(len(at_ids_NK))
    # the logits of one chunk of rows are in memory at a time
    parts = [_predict_chunk(loaded, dump, hidden, at_ids_NK, rows) for rows in chunks]
    return {role: join([part[role] for part in parts]) for role in hidden}


def _predict_chunk(
    loaded: dict[str, LoadedModel],
    dump: DumpConfig,
    hidden: dict[str, torch.Tensor],
    at_ids_NK: np.ndarray,
    rows: slice,
) -> dict[str, TeacherForced]:
    at_ids_NK = at_ids_NK[rows]
    logits = {role: loaded[role].logits(hidden_NH[rows]) for role, hidden_NH in hidden.items()}
    gain_N = np.full(len(at_ids_NK), np.nan, dtype=np.float32)
    if {"small", "tuned"} <= logits.keys():
        gain_N = records.largest_gain(logits["tuned"], logits["small"], at_ids_NK)
    return {
        role: TeacherForced(records.record(logits_NV, dump), records.gather(logits_NV, at_ids_NK), gain_N)
        for role, logits_NV in logits.items()
    }


def join(parts: list[TeacherForced]) -> TeacherForced:
    """The predictions for several texts, one after the other."""
    return TeacherForced(
        records.join([part.records for part in parts]),
        np.concatenate([part.at_logits_NK for part in parts]),
        np.concatenate([part.gain_N for part in parts]),
    )


def _hidden_states(loaded: LoadedModel, role: str, texts: list[TextToRead]) -> dict[int, torch.Tensor]:
    """Text to the hidden states [L, H] that predict its tokens, of the texts that `role` reads."""
    groups = _group_by_prompt((i, text) for i, text in enumerate(texts) if role in text.readers)
    numbers = [i for group in groups for i in group]
    if len(groups) == len(numbers):
        return dict(zip(numbers, _hidden_whole(loaded, [texts[i] for i in numbers]), strict=True))
    hidden = _hidden_shared(loaded, [[texts[i] for i in group] for group in groups])
    return dict(zip(numbers, hidden, strict=True))


def _hidden_whole(loaded: LoadedModel, texts: list[TextToRead]) -> list[torch.Tensor]:
    """Hidden states of texts with different prompts: one causal pass, padded on the right, unseen by all."""
    whole = [(text.prompt + text.ids)[:-1] for text in texts]
    width = max(map(len, whole))
    ids_BL = torch.tensor([ids + [0] * (width - len(ids)) for ids in whole], device=loaded.device)
    hidden_BLH = loaded.hidden_states(ids_BL, use_cache=False)
    return [hidden_BLH[i, len(text.prompt) - 1 : text.length - 1] for i, text in enumerate(texts)]


def _hidden_shared(loaded: LoadedModel, groups: list[list[TextToRead]]) -> list[torch.Tensor]:
    """Hidden states of texts grouped by prompt: each prompt is read once, then the texts that continue it."""
    texts = [text for group in groups for text in group]
    cache = RaggedKVCache(loaded, sys.maxsize)
    prompt_NH = cache.prefill([group[0].prompt for group in groups])
    last_G = np.cumsum([len(group[0].prompt) for group in groups]) - 1
    group_B = np.repeat(np.arange(len(groups)), [len(group) for group in groups])
    cache.reorder(group_B)
    text_LH = cache.append([text.ids for text in texts]).split([len(text.ids) for text in texts])
    # the first token of a text is predicted after the prompt, and nothing is predicted after the last one
    first_BH = prompt_NH[last_G[group_B]]
    return [
        torch.cat([first_H[None], hidden_LH[:-1]])
        for first_H, hidden_LH in zip(first_BH, text_LH, strict=True)
    ]
