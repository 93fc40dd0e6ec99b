"""A model standing at the end of many texts at once, each as long as it is.

Shape legend: R texts held, B of them in a pass, L tokens that the pass appends to the longest,
N tokens that it appends in all, C rows of the cache, W columns, H hidden width, A attention heads, D their
width. Token j of text r stands in column j of its row, so its length alone says what of a row is real: rows
are copied, cut short, appended to and joined by others without anything else moving. R texts fill the first
R rows of the cache in any order, so that a text which leaves or doubles moves one row and not all.
"""

from functools import partial

import numpy as np
import torch
from transformers.cache_utils import Cache, DynamicLayer

from fsgen.models.loaded_model import LoadedModel

COLUMNS = 64  # a row grows by so many at a time
SLACK = 4  # rows grow by this part of themselves at least
# A pass reads all weights, which takes as long as computing on about so many tokens: measured 93 and 100 with
# 1.5 and 0.5 billion in bfloat16 on a CPU with matrix units; the ratio of rates is like that on a large card.
PASS_OVERHEAD_TOKENS = 100


def pack_batches(lengths: list[int], budget: int) -> list[list[int]]:
    """Indices of like lengths together, at most `budget` tokens a pass with padding, at the least cost.

    A pass costs its tokens, padding included, and READING. A single text may exceed the budget.
    """
    order = np.argsort(lengths, kind="stable")
    cost, begin = np.zeros(len(order) + 1), np.zeros(len(order) + 1, dtype=np.int64)  # of the first texts
    for end in range(1, len(order) + 1):
        longest = lengths[order[end - 1]]
        first = np.arange(max(0, end - max(1, budget // longest)), end)
        total = cost[first] + PASS_OVERHEAD_TOKENS + (end - first) * longest
        begin[end], cost[end] = first[total.argmin()], total.min()
    found, end = [], len(order)
    while end:
        found.append(order[begin[end] : end].tolist())
        end = begin[end]
    return found[::-1]


class RaggedKVCache:
    """Key-value cache of R texts; no pass of the model holds more than `budget` tokens, if it can."""

    def __init__(self, loaded: LoadedModel, budget: int):
        self.loaded, self.budget = loaded, budget
        self.length_R = np.zeros(0, dtype=np.int64)
        self._row_R = np.zeros(0, dtype=np.int64)
        self.positions = 0
        """Tokens that went through the model so far."""
        self._place = _BatchLayout()
        self._cache = Cache(layer_class_to_replicate=partial(_RaggedLayer, self._place))

    def enter(self, texts: list[list[int]]) -> torch.Tensor | None:
        """Begin further texts, as the last rows; hidden states [N, H] that follow each of their tokens."""
        entering = np.arange(len(self.length_R), len(self.length_R) + len(texts))
        self.length_R = np.append(self.length_R, np.zeros(len(texts), dtype=np.int64))
        self._row_R = np.append(self._row_R, entering)
        return self.extend(texts, entering)

    def begin(self, texts: list[list[int]]) -> list[int]:
        """Begin further texts as `enter` does, but for what follows them; returns the indices of those read.

        A text that another one begins with is read as a part of that, and an empty one not at all.
        """
        read, row = _cover(texts)
        held = len(self.length_R)
        self.enter([texts[i] for i in read])
        lengths = [*self.length_R[:held], *map(len, texts)]
        self.select(np.array([*range(held), *(held + r for r in row)]), np.array(lengths))
        return [i for i in read if texts[i]]

    def extend(self, tokens: list[list[int]], rows: np.ndarray | None = None) -> torch.Tensor | None:
        """Append tokens[i] to text rows[i], all rows by default; hidden states [N, H] after each token."""
        rows = np.arange(len(self.length_R)) if rows is None else rows
        asked = [i for i, ids in enumerate(tokens) if ids]
        parts: dict[int, torch.Tensor] = {}
        for batch in pack_batches([len(tokens[i]) for i in asked], self.budget):
            batch = [asked[i] for i in batch]
            hidden_NH = self._run([tokens[i] for i in batch], rows[batch])
            if len(batch) == len(tokens) and batch == sorted(batch):
                return hidden_NH  # a step, or texts of one length: nothing to put back in order
            split = hidden_NH.split([len(tokens[i]) for i in batch])
            parts |= dict(zip(batch, split, strict=True))
        return torch.cat([parts[i] for i in asked]) if asked else None

    def select(self, rows: np.ndarray, length_R: np.ndarray | None = None) -> None:
        """Go on with these rows, in this order, cut to these lengths; a row named twice becomes two."""
        self.length_R = self.length_R[rows] if length_R is None else length_R
        wanted_R, self._row_R = self._row_R[rows], _dense(self._row_R[rows])
        for layer in self._cache.layers:
            layer.select(wanted_R, self._row_R, int(self.length_R.max(initial=0)))

    def _run(self, tokens: list[list[int]], rows: np.ndarray) -> torch.Tensor:
        """One pass over rows of like appendage, padded on the right."""
        place, device = self._place, self.loaded.device
        count_B, begin_B = np.array([len(ids) for ids in tokens]), self.length_R[rows]
        longest = int(count_B.max())
        self.length_R[rows] += count_B
        self.positions += int(count_B.sum())
        is_new_BL = torch.from_numpy(np.arange(longest) < count_B[:, None])
        ids_BL = torch.zeros(len(tokens), longest, dtype=torch.long)
        ids_BL[is_new_BL] = torch.tensor([token for ids in tokens for token in ids])
        step_BL = np.minimum(np.arange(longest), count_B[:, None] - 1)
        position_BL = torch.from_numpy(begin_B[:, None] + step_BL)
        own_N, step_N = is_new_BL.nonzero(as_tuple=True)
        row_B = self._row_R[rows]
        order_B = row_B.argsort()  # by rows of the cache, so that a pass over all of them copies none
        place.batch_N = torch.from_numpy(order_B.argsort())[own_N].to(device)
        place.step_N = step_N.to(device)
        place.row_N = torch.from_numpy(row_B)[own_N].to(device)
        place.column_N = position_BL[own_N, step_N].to(device)
        place.rows, place.width = len(self.length_R), int(self.length_R[rows].max())
        place.is_fresh = not begin_B.any()
        place.row_B = None if len(rows) == place.rows else torch.from_numpy(row_B[order_B]).to(device)
        position_BL = position_BL[order_B].to(device)
        hidden_BLH = self.loaded.hidden(
            ids_BL[order_B].to(device),
            attention_mask=None if place.is_fresh else self._mask(position_BL),
            position_ids=position_BL,
            cache=self._cache,
            use_cache=True,
        )
        return hidden_BLH[place.batch_N, place.step_N]

    def _mask(self, position_BL: torch.Tensor) -> torch.Tensor:
        """What each new token must not see, as an addend to its scores, [B, 1, L, W]."""
        dtype = self.loaded.network.dtype
        column_W = torch.arange(self._place.width, device=position_BL.device)
        hidden_BLW = column_W > position_BL[:, :, None]
        mask_BLW = torch.zeros(hidden_BLW.shape, dtype=dtype, device=position_BL.device)
        return mask_BLW.masked_fill_(hidden_BLW, torch.finfo(dtype).min)[:, None]


class _BatchLayout:
    """Where the tokens of the pass that is running stand; one for all layers."""

    rows: int
    width: int
    is_fresh: bool
    """Whether no text of the pass held anything before, so that a plain causal pass will do."""
    row_B: torch.Tensor | None
    row_N: torch.Tensor
    column_N: torch.Tensor
    batch_N: torch.Tensor
    step_N: torch.Tensor


class _RaggedLayer(DynamicLayer):
    """Keys and values of one layer, [C, A, W, D] each; columns past a text's length hold leftovers."""

    def __init__(self, place: _BatchLayout):
        super().__init__()
        self.place = place

    def update(self, keys_BALD: torch.Tensor, values_BALD: torch.Tensor, *_, **__):
        if not self.is_initialized:
            self.dtype, self.device, self.is_initialized = keys_BALD.dtype, keys_BALD.device, True
            self.keys, self.values = (x[:0, :, :0] for x in (keys_BALD, values_BALD))
        self.keys, self.values = self._put(self.keys, keys_BALD), self._put(self.values, values_BALD)
        if self.place.is_fresh:
            return keys_BALD, values_BALD
        return self._seen(self.keys), self._seen(self.values)

    def select(self, wanted_R: np.ndarray, row_R: np.ndarray, width: int) -> None:
        """Let text r, which stands in row wanted_R[r], stand in row_R[r]; no text is longer than `width`."""
        moves = (wanted_R != row_R) & (wanted_R < len(self.keys))  # other rows are yet to be filled
        if moves.any():
            source, target = (torch.from_numpy(row[moves]).to(self.device) for row in (wanted_R, row_R))
            self.keys, self.values = (_grown(x, len(row_R), 0) for x in (self.keys, self.values))
            for held_CAWD in (self.keys, self.values):
                held_CAWD[target] = held_CAWD[source]
        rows, columns = len(row_R), _rounded_up(width)
        if 2 * rows * columns < self.keys.shape[0] * self.keys.shape[2]:
            self.keys, self.values = (x[:rows, :, :columns].clone() for x in (self.keys, self.values))

    def get_seq_length(self) -> int:
        return 0  # positions and masks come with every pass

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return query_length, 0

    def _put(self, held_CAWD: torch.Tensor, new_BALD: torch.Tensor) -> torch.Tensor:
        at = self.place
        held_CAWD = _grown(held_CAWD, at.rows, at.width)
        row_N, column_N, batch_N, step_N = (
            index.to(self.device) for index in (at.row_N, at.column_N, at.batch_N, at.step_N)
        )
        held_CAWD[row_N, :, column_N] = new_BALD[batch_N, :, step_N]
        return held_CAWD

    def _seen(self, held_CAWD: torch.Tensor) -> torch.Tensor:
        at = self.place
        chosen = held_CAWD[: at.rows] if at.row_B is None else held_CAWD[at.row_B.to(self.device)]
        return chosen[:, :, : at.width]


def _grown(held_CAWD: torch.Tensor, rows: int, columns: int) -> torch.Tensor:
    """With so many rows and columns at least, the new ones zero."""
    more_rows, more_columns = rows - held_CAWD.shape[0], _rounded_up(columns) - held_CAWD.shape[2]
    if more_rows > 0:
        more_rows = max(more_rows, held_CAWD.shape[0] // SLACK)
    if more_rows <= 0 and more_columns <= 0:
        return held_CAWD
    return torch.nn.functional.pad(held_CAWD, (0, 0, 0, max(0, more_columns), 0, 0, 0, max(0, more_rows)))


def _dense(row_R: np.ndarray) -> np.ndarray:
    """A row among the first R for each text, its own where that is one and no text before it has it."""
    found_R = np.full(len(row_R), -1)
    row, first = np.unique(row_R, return_index=True)
    stays = first[row < len(row_R)]
    found_R[stays] = row_R[stays]
    found_R[found_R < 0] = np.setdiff1d(np.arange(len(row_R)), row_R[stays])
    return found_R


def _cover(texts: list[list[int]]) -> tuple[list[int], list[int]]:
    """Which texts to read so that every text begins one of them, and its place among those."""
    read: list[int] = []
    row = [0] * len(texts)
    for i in sorted(range(len(texts)), key=texts.__getitem__, reverse=True):
        if not read or texts[read[-1]][: len(texts[i])] != texts[i]:
            read.append(i)
        row[i] = len(read) - 1
    return read, row


def _rounded_up(width: int) -> int:
    return -(-width // COLUMNS) * COLUMNS
