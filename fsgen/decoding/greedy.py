"""Greedy generation with a record of each position.

Shape legend: B texts in the batch, N rows (positions of texts), V usable vocabulary.
"""

import numpy as np
import torch

from fsgen.config.schema import DumpConfig, Settings
from fsgen.decoding.texts import StopRule, TokenSequence
from fsgen.execution import console
from fsgen.models import records
from fsgen.models.kv_cache import RaggedKVCache
from fsgen.models.loaded_model import LoadedModel


@torch.inference_mode()
def generate_greedy(
    loaded: LoadedModel,
    prompts: dict[str, list[int]],
    until: StopRule,
    settings: Settings,
    rows: int,
    bar: console.Bar,
) -> tuple[list[TokenSequence], records.TokenRecords]:
    """Greedy texts of the prompts, and the records of their rows sorted by text and position.

    At most `rows` texts stand side by side. One that has ended leaves, and once a quarter of them
    have, as many prompts enter.
    """
    desk = _Batch(RaggedKVCache(loaded, settings.compute.read_tokens), [*prompts.values()], rows)
    names, texts = [*prompts], [TokenSequence([]) for _ in prompts]
    owners, parts = [], []
    while desk.is_busy():
        desk.admit()
        part = _record(loaded, desk.hidden_BH, settings.dump)
        alive = desk.alive
        owners.append(alive)
        parts.append(part)
        lengths = [len(texts[i].ids) for i in alive]
        for i, token in zip(alive, part.top_ids_NK[:, 0].tolist(), strict=True):
            texts[i].ids.append(token)
        _close_turns(alive, texts, names, until)
        stays_B = np.array([_goes_on(names[i], texts[i], until) for i in alive])
        fed = [texts[i].ids[n:] for i, n, stays in zip(alive, lengths, stays_B, strict=True) if stays]
        forced_NH = desk.go_on(np.flatnonzero(stays_B), fed)
        if len(forced_NH):  # the tokens of a next question, which nobody chose, have their records too
            owners.append(np.repeat(desk.alive, [len(ids) - 1 for ids in fed]))
            parts.append(_record(loaded, forced_NH, settings.dump))
        bar.advance(int((~stays_B).sum()), tokens=len(alive))
    # rows of one text were made in the order of their positions, so a stable sort by text suffices
    order = np.argsort(np.concatenate(owners), kind="stable")
    return texts, records.join(parts).take(order)


class _Batch:
    """Texts being written, with the prompts that wait for a place."""

    def __init__(self, cursor: RaggedKVCache, prompts: list[list[int]], rows: int):
        self.cursor, self.prompts, self.rows = cursor, prompts, rows
        self.begun = 0
        self.alive = np.zeros(0, dtype=np.int64)
        self.hidden_BH: torch.Tensor | None = None

    def is_busy(self) -> bool:
        return len(self.alive) > 0 or self.begun < len(self.prompts)

    def admit(self) -> None:
        """Let prompts enter where it is worth a pass: a quarter of the rows, or all that wait."""
        entering = self.prompts[self.begun : self.begun + self.rows - len(self.alive)]
        waiting = len(self.prompts) - self.begun
        if not entering or len(entering) < min(waiting, max(1, self.rows // 4)):
            return
        last_B = np.cumsum([len(prompt) for prompt in entering]) - 1
        hidden_BH = self.cursor.prefill(entering)[last_B]
        self.hidden_BH = torch.cat([self.hidden_BH, hidden_BH]) if len(self.alive) else hidden_BH
        self.alive = np.append(self.alive, np.arange(self.begun, self.begun + len(entering)))
        self.begun += len(entering)

    def go_on(self, stays: np.ndarray, fed: list[list[int]]) -> torch.Tensor:
        """Keep these texts and append these tokens; hidden states [N, H] that come before a text's last."""
        self.alive = self.alive[stays]
        self.cursor.reorder(stays)
        if not fed:
            return torch.empty(0)
        hidden_NH = self.cursor.append(fed)
        last_B = np.cumsum([len(ids) for ids in fed]) - 1
        is_last_N = np.zeros(len(hidden_NH), dtype=bool)
        is_last_N[last_B] = True
        self.hidden_BH = hidden_NH[is_last_N]
        return hidden_NH[~is_last_N]


def _record(loaded: LoadedModel, hidden_NH: torch.Tensor, dump: DumpConfig) -> records.TokenRecords:
    spans = loaded.row_chunks(len(hidden_NH))
    return records.join([records.record(loaded.logits(hidden_NH[span]), dump) for span in spans])


def _close_turns(alive: np.ndarray, texts: list[TokenSequence], names: list[str], until: StopRule) -> None:
    """End the turns that the last tokens have ended, where a next question follows with its tokens."""
    writing = [i for i in alive if not until.is_finished(names[i], texts[i])]  # the others write a tail
    grown = until.advance([names[i] for i in writing], [texts[i] for i in writing])
    for i, text in zip(writing, grown, strict=True):
        texts[i] = text


def _goes_on(name: str, text: TokenSequence, until: StopRule) -> bool:
    """Whether a text is written on: it has not ended, or its tail is not full."""
    if not until.is_finished(name, text):
        return True
    turn = text.turns[-1]
    longest = min(turn.end + until.tail, turn.written + until.max_new_tokens)
    return turn.finish_reason == "stop" and text.ids[-1] not in until.stop_ids and len(text.ids) < longest
