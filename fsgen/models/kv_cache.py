"""A key-value cache of texts of different lengths, which grow, split, shrink and end one by one.

Shape legend: R texts held, B of them in a pass, L tokens that the pass appends to the longest, N tokens that
it appends in all, W columns of the longest, H hidden width.

Token j of a text is stored in column j of the text's row. The length of a text therefore says which columns
of its row are valid; what lies behind them is never read. Texts fill the first R rows in any order, so that a
text which ends or splits moves one row and not all.

Example: three texts of 2, 4 and 1 tokens (`.` is not valid) get one more token each. Then the first one ends,
the second one is cut to 3 tokens, and the third one, as the new first, becomes two.

    prefill([ab, cdef, g])                       row 0: a b . . .    text 0, length 2
                                                 row 1: c d e f .    text 1, length 4
                                                 row 2: g . . . .    text 2, length 1
    append([x, y, z])                            row 0: a b x . .    text 0, length 3
                                                 row 1: c d e f y    text 1, length 5
                                                 row 2: g z . . .    text 2, length 2
    reorder([2, 2, 1], lengths [2, 2, 3])        row 0: g z . . .    text 1, copied from row 2
                                                 row 1: c d e . .    text 2, where it was
                                                 row 2: g z . . .    text 0, where it was

The pass of `append` sees x, y and z as a batch of three rows and one column, at positions 2, 4 and 1. Its
mask hides the columns behind each of them.
"""

from functools import partial

import numpy as np
import torch
from transformers.cache_utils import Cache

from fsgen.models.batching import pack_batches
from fsgen.models.loaded_model import LoadedModel
from fsgen.models.ragged_layer import RaggedLayer, RunningPass, lay_out, move_layout


class RaggedKVCache:
    """Key-value cache of R texts.

    A pass of the model holds at most `max_batch_tokens` tokens with padding, or a single text.
    """

    def __init__(self, loaded: LoadedModel, max_batch_tokens: int):
        self.loaded, self.max_batch_tokens = loaded, max_batch_tokens
        self.length_R = np.zeros(0, dtype=np.int64)
        self.positions = 0
        """Tokens that went through the model so far."""
        self._row_R = np.zeros(0, dtype=np.int64)
        self._pass = RunningPass()
        self._cache = Cache(layer_class_to_replicate=partial(RaggedLayer, self._pass))

    def prefill(self, texts: list[list[int]]) -> torch.Tensor | None:
        """Add texts after those that are held.

        Returns the hidden states [N, H] after each of their tokens, text by text; None without a token.
        """
        added = np.arange(len(self.length_R), len(self.length_R) + len(texts))
        self.length_R = np.append(self.length_R, np.zeros(len(texts), dtype=np.int64))
        self._row_R = np.append(self._row_R, added)
        return self.append(texts, added)

    def prefill_shared(self, texts: list[list[int]]) -> list[int]:
        """Add texts as `prefill` does, but read a text that another one begins with as a part of that.

        Returns the indices of the texts that went through the model, and no hidden states.
        """
        # policies leave one dumped text at different tokens, so that most of these texts begin another one
        read, source = _distinct_texts(texts)
        held = len(self.length_R)
        self.prefill([texts[i] for i in read])
        rows = [*range(held), *(held + index for index in source)]
        self.reorder(np.array(rows), np.array([*self.length_R[:held], *map(len, texts)]))
        return [i for i in read if texts[i]]

    def append(self, tokens: list[list[int]], rows: np.ndarray | None = None) -> torch.Tensor | None:
        """Append tokens[i] to text rows[i] (all texts in order by default).

        Returns the hidden states [N, H] after each token, text by text; None without a token.
        """
        rows = np.arange(len(self.length_R)) if rows is None else rows
        filled = [i for i, ids in enumerate(tokens) if ids]
        hidden_by_text: dict[int, torch.Tensor] = {}
        for batch in pack_batches([len(tokens[i]) for i in filled], self.max_batch_tokens):
            batch = [filled[i] for i in batch]
            hidden_NH = self._run([tokens[i] for i in batch], rows[batch])
            if len(batch) == len(tokens) and batch == sorted(batch):
                return hidden_NH  # all in one pass and in order, so that nothing need be copied
            split = hidden_NH.split([len(tokens[i]) for i in batch])
            hidden_by_text |= dict(zip(batch, split, strict=True))
        return torch.cat([hidden_by_text[i] for i in filled]) if filled else None

    def reorder(self, rows: np.ndarray, length_R: np.ndarray | None = None) -> None:
        """Keep the texts of these indices, in this order, cut to these lengths; a repeated one is copied."""
        self.length_R = self.length_R[rows] if length_R is None else length_R
        source_R = self._row_R[rows]
        self._row_R = _assign_rows(source_R)
        for layer in self._cache.layers:
            layer.move_rows(source_R, self._row_R, int(self.length_R.max(initial=0)))

    def _run(self, tokens: list[list[int]], rows: np.ndarray) -> torch.Tensor:
        """One pass that appends tokens[i] to text rows[i]; hidden states [N, H]."""
        count_B, begin_B = np.array([len(ids) for ids in tokens]), self.length_R[rows]
        self.length_R[rows] += count_B
        self.positions += int(count_B.sum())
        row_B = self._row_R[rows]
        # in the order of the stored rows, a pass over all texts reads the cache in place and copies nothing
        order_B = row_B.argsort()
        layout = lay_out(begin_B, count_B, row_B, order_B, len(self.length_R))
        self._pass.layout = layout = move_layout(layout, self.loaded.device)
        position_BL = torch.from_numpy(_positions(begin_B, count_B)[order_B]).to(self.loaded.device)
        hidden_BLH = self.loaded.hidden_states(
            torch.from_numpy(_pad(tokens)[order_B]).to(self.loaded.device),
            attention_mask=None if layout.is_fresh else self._mask(position_BL, layout.width),
            position_ids=position_BL,
            cache=self._cache,
            use_cache=True,
        )
        return hidden_BLH[layout.batch_row_N, layout.step_N]

    def _mask(self, position_BL: torch.Tensor, width: int) -> torch.Tensor:
        """What is added to attention scores, [B, 1, L, W]: the least number where a token must not look."""
        dtype = self.loaded.network.dtype
        column_W = torch.arange(width, device=position_BL.device)
        is_hidden_BLW = column_W > position_BL[:, :, None]
        mask_BLW = torch.zeros(is_hidden_BLW.shape, dtype=dtype, device=position_BL.device)
        return mask_BLW.masked_fill_(is_hidden_BLW, torch.finfo(dtype).min)[:, None]


def _positions(begin_B: np.ndarray, count_B: np.ndarray) -> np.ndarray:
    """Positions of the tokens of a batch, [B, L]; padding repeats the last one."""
    return begin_B[:, None] + np.minimum(np.arange(count_B.max()), count_B[:, None] - 1)


def _pad(tokens: list[list[int]]) -> np.ndarray:
    """The ids of a batch, [B, L], padded on the right with 0."""
    count_B = np.array([len(ids) for ids in tokens])
    ids_BL = np.zeros((len(tokens), count_B.max()), dtype=np.int64)
    ids_BL[np.arange(count_B.max()) < count_B[:, None]] = [token for ids in tokens for token in ids]
    return ids_BL


def _assign_rows(source_R: np.ndarray) -> np.ndarray:
    """A row among the first R for each text: its own if that is one and no earlier text has taken it."""
    row_R = np.full(len(source_R), -1)
    sources, first = np.unique(source_R, return_index=True)
    stays = first[sources < len(source_R)]
    row_R[stays] = source_R[stays]
    row_R[row_R < 0] = np.setdiff1d(np.arange(len(source_R)), source_R[stays])
    return row_R


def _distinct_texts(texts: list[list[int]]) -> tuple[list[int], list[int]]:
    """Indices of the texts that begin no other text, and for every text the place of one that it begins."""
    read: list[int] = []
    source = [0] * len(texts)
    # in falling lexicographic order a text follows directly after those that it begins
    for i in sorted(range(len(texts)), key=texts.__getitem__, reverse=True):
        if not read or texts[read[-1]][: len(texts[i])] != texts[i]:
            read.append(i)
        source[i] = len(read) - 1
    return read, source
