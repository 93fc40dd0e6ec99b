"""The local Generator: a model in memory writes texts greedily, and records each position on the way.

Shape legend: B texts in the batch, N rows (positions of texts), H hidden width.
"""

import numpy as np
import torch

from fsgen.config.schema import DumpConfig
from fsgen.decoding.protocol import GeneratedTexts, Progress
from fsgen.decoding.texts import StopRule, TokenSequence
from fsgen.models import records
from fsgen.models.kv_cache import RaggedKVCache
from fsgen.models.loaded_model import LoadedModel
from fsgen.models.records import TokenRecords


@torch.inference_mode()
def generate_greedy(
    loaded: LoadedModel,
    dump: DumpConfig,
    max_batch_tokens: int,
    prompts: dict[str, list[int]],
    stop_rule: StopRule,
    batch_size: int,
    bar: Progress,
) -> GeneratedTexts:
    """Greedy texts of the prompts, with their records.

    At most `batch_size` texts are written side by side. A text that ends leaves the batch; once a quarter of
    the places are free, as many prompts enter.
    """
    batch = _Batch(RaggedKVCache(loaded, max_batch_tokens), [*prompts.values()], batch_size)
    texts = _Texts([*prompts], stop_rule)
    recorder = _Recorder(loaded, dump)
    while batch.is_busy():
        batch.admit()
        written = batch.texts
        record = recorder.add(written, batch.hidden_BH)
        added = texts.append(written, record.top_ids_NK[:, 0].tolist())
        goes_on_B = texts.go_on(written)
        fed = [ids for ids, goes_on in zip(added, goes_on_B, strict=True) if goes_on]
        forced_NH = batch.step(np.flatnonzero(goes_on_B), fed)
        if len(forced_NH):  # tokens of a next question, which the model did not choose, have records too
            recorder.add(np.repeat(batch.texts, [len(ids) - 1 for ids in fed]), forced_NH)
        bar.advance(int((~goes_on_B).sum()), tokens=len(written))
    return GeneratedTexts(texts.sequences, recorder.by_text())


class _Batch:
    """Texts side by side in a cache, and the prompts that wait for a place."""

    def __init__(self, cache: RaggedKVCache, prompts: list[list[int]], size: int):
        self._cache, self._prompts, self._size = cache, prompts, size
        self._admitted = 0
        self.texts = np.zeros(0, dtype=np.int64)
        """Indices of the texts in the batch."""
        self.hidden_BH: torch.Tensor | None = None
        """Hidden states after the last token of each."""

    def is_busy(self) -> bool:
        return len(self.texts) > 0 or self._admitted < len(self._prompts)

    def admit(self) -> None:
        """Let prompts enter if it is worth a pass: a quarter of the places are free, or all that wait fit."""
        entering = self._prompts[self._admitted : self._admitted + self._size - len(self.texts)]
        # a prefill costs one pass for any number of prompts, so several enter together
        waiting = len(self._prompts) - self._admitted
        if not entering or len(entering) < min(waiting, max(1, self._size // 4)):
            return
        # hidden states come text by text; only those after the last tokens of prompts predict something new
        last_B = np.cumsum([len(prompt) for prompt in entering]) - 1
        hidden_BH = self._cache.prefill(entering)[last_B]
        self.hidden_BH = torch.cat([self.hidden_BH, hidden_BH]) if len(self.texts) else hidden_BH
        self.texts = np.append(self.texts, np.arange(self._admitted, self._admitted + len(entering)))
        self._admitted += len(entering)

    def step(self, kept: np.ndarray, fed: list[list[int]]) -> torch.Tensor:
        """Keep the texts at these places, and let the model read the tokens that were added to each.

        Returns the hidden states [N, H] that predict tokens which are already known: all but a text's last.
        """
        self.texts = self.texts[kept]
        self._cache.reorder(kept)
        if not fed:
            return torch.empty(0)
        hidden_NH = self._cache.append(fed)
        is_last_N = np.zeros(len(hidden_NH), dtype=bool)
        is_last_N[np.cumsum([len(ids) for ids in fed]) - 1] = True
        self.hidden_BH = hidden_NH[is_last_N]
        return hidden_NH[~is_last_N]


class _Texts:
    """The texts so far, and when they end."""

    def __init__(self, prompt_ids: list[str], stop_rule: StopRule):
        self._prompt_ids, self._stop_rule = prompt_ids, stop_rule
        self.sequences = [TokenSequence([]) for _ in prompt_ids]

    def append(self, texts: np.ndarray, tokens: list[int]) -> list[list[int]]:
        """Append a token to each of these texts; return it and the template tokens after it, by text."""
        lengths = [len(self.sequences[i].ids) for i in texts]
        for i, token in zip(texts, tokens, strict=True):
            self.sequences[i].ids.append(token)
        self._close_turns(texts)
        return [self.sequences[i].ids[length:] for i, length in zip(texts, lengths, strict=True)]

    def _close_turns(self, texts: np.ndarray) -> None:
        """End the turns that the last tokens ended; after its last turn a text goes on a little."""
        open_texts = [i for i in texts if not self._is_finished(i)]
        prompt_ids = [self._prompt_ids[i] for i in open_texts]
        closed = self._stop_rule.close_finished_turns(prompt_ids, [self.sequences[i] for i in open_texts])
        for i, text in zip(open_texts, closed, strict=True):
            self.sequences[i] = text

    def go_on(self, texts: np.ndarray) -> np.ndarray:
        """Whether each of these texts goes on: it has not ended, or has not reached tokens_after_stop."""
        return np.array([not self._is_finished(i) or self._has_tail_left(self.sequences[i]) for i in texts])

    def _is_finished(self, i: int) -> bool:
        return self._stop_rule.is_finished(self._prompt_ids[i], self.sequences[i])

    def _has_tail_left(self, text: TokenSequence) -> bool:
        turn, rule = text.turns[-1], self._stop_rule
        longest = min(turn.end + rule.tokens_after_stop, turn.written + rule.max_new_tokens)
        return turn.finish_reason == "stop" and text.ids[-1] not in rule.stop_ids and len(text.ids) < longest


class _Recorder:
    """Records of positions of texts, collected step by step."""

    def __init__(self, loaded: LoadedModel, dump: DumpConfig):
        self._loaded, self._dump = loaded, dump
        self._texts: list[np.ndarray] = []
        self._parts: list[TokenRecords] = []

    def add(self, texts: np.ndarray, hidden_NH: torch.Tensor) -> TokenRecords:
        """Record what hidden states predict for the next position of each of these texts."""
        chunks = self._loaded.row_chunks(len(hidden_NH))
        # the logits of one chunk are freed before those of the next one are computed
        part = records.join([self._record(hidden_NH[rows]) for rows in chunks])
        self._texts.append(texts)
        self._parts.append(part)
        return part

    def _record(self, hidden_NH: torch.Tensor) -> TokenRecords:
        return records.record(self._loaded.logits(hidden_NH), self._dump)

    def by_text(self) -> TokenRecords:
        """All records, text after text."""
        # a text's records were made in the order of its positions, so a stable sort by text suffices
        order = np.argsort(np.concatenate(self._texts), kind="stable")
        return records.join(self._parts).take(order)
