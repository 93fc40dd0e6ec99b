"""One layer's keys and values of texts of different lengths, as `kv_cache.py` lays them out.

Shape legend: R texts held, B of them in a pass, L tokens that the pass appends to the longest, N tokens that
it appends in all, C rows of the stored tensors, W columns, A attention heads, D their width.
"""

from typing import NamedTuple

import numpy as np
import torch
from transformers.cache_utils import DynamicLayer

COLUMNS = 64  # the stored tensors grow by so many columns at a time
ROW_SLACK = 4  # and by one row in so many at least


class BatchLayout(NamedTuple):
    """Where the new tokens of a pass lie in the padded batch, and where they are stored."""

    rows: int
    """Rows of all texts, also of those that are not in the pass."""
    width: int
    """Columns of the longest text in the pass, its new tokens included."""
    is_fresh: bool
    """Whether no text of the pass has earlier tokens, so that plain causal attention will do."""
    stored_row_B: torch.Tensor | None
    """Stored row of each row of the batch; None if the pass holds all texts."""
    stored_row_N: torch.Tensor
    column_N: torch.Tensor
    batch_row_N: torch.Tensor
    step_N: torch.Tensor


def lay_out(
    begin_B: np.ndarray, count_B: np.ndarray, row_B: np.ndarray, order_B: np.ndarray, rows: int
) -> BatchLayout:
    """The layout of a pass that appends count_B tokens from column begin_B on of the stored rows row_B.

    The batch holds the texts in the order order_B; the N tokens are text by text in the given order.
    """
    text_N, step_N = (np.arange(count_B.max()) < count_B[:, None]).nonzero()
    indices = row_B[text_N], begin_B[text_N] + step_N, order_B.argsort()[text_N], step_N
    return BatchLayout(
        rows,
        int((begin_B + count_B).max()),
        not begin_B.any(),
        None if len(row_B) == rows else torch.from_numpy(row_B[order_B]),
        *map(torch.from_numpy, indices),
    )


def move_layout(layout: BatchLayout, device: torch.device) -> BatchLayout:
    """The layout with its tensors on a device."""
    moved = [entry.to(device) if isinstance(entry, torch.Tensor) else entry for entry in layout]
    return BatchLayout(*moved)


class RunningPass:
    """Holds the layout of the pass that is running, which the layers of a cache share."""

    layout: BatchLayout


class RaggedLayer(DynamicLayer):
    """Keys and values of one layer, [C, A, W, D] each."""

    def __init__(self, running: RunningPass):
        super().__init__()
        self._running = running

    def update(self, keys_BALD: torch.Tensor, values_BALD: torch.Tensor, *_, **__):
        """Store new keys and values; returns those that the pass attends to."""
        if not self.is_initialized:
            self.dtype, self.device, self.is_initialized = keys_BALD.dtype, keys_BALD.device, True
            self.keys, self.values = (new[:0, :, :0] for new in (keys_BALD, values_BALD))
        self.keys, self.values = self._store(self.keys, keys_BALD), self._store(self.values, values_BALD)
        # without earlier tokens the pass attends to itself, and the network may use its fast causal kernel
        if self._running.layout.is_fresh:
            return keys_BALD, values_BALD
        return self._select_batch(self.keys), self._select_batch(self.values)

    def move_rows(self, source_R: np.ndarray, row_R: np.ndarray, width: int) -> None:
        """Copy row source_R[r] to row_R[r] for every text r, and drop rows and columns that none needs.

        `width` is the length of the longest text.
        """
        is_moved_R = (source_R != row_R) & (source_R < len(self.keys))  # later rows are not filled yet
        if is_moved_R.any():
            source, target = (torch.from_numpy(row[is_moved_R]).to(self.device) for row in (source_R, row_R))
            self.keys, self.values = (_grow(held, len(row_R), 0) for held in (self.keys, self.values))
            for held_CAWD in (self.keys, self.values):
                held_CAWD[target] = held_CAWD[source]
        # shrink at half use: a copy for every text that ends would cost more than the memory is worth
        rows, columns = len(row_R), _round_up(width)
        if 2 * rows * columns < self.keys.shape[0] * self.keys.shape[2]:
            self.keys, self.values = (held[:rows, :, :columns].clone() for held in (self.keys, self.values))

    def get_seq_length(self) -> int:
        """Always 0: positions and masks are given to every pass."""
        return 0

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """As for a pass without earlier tokens; a pass that has some brings a mask of its own."""
        return query_length, 0

    def _store(self, held_CAWD: torch.Tensor, new_BALD: torch.Tensor) -> torch.Tensor:
        layout = self._running.layout
        held_CAWD = _grow(held_CAWD, layout.rows, layout.width)
        stored_row_N, column_N, batch_row_N, step_N = (index.to(self.device) for index in layout[4:])
        held_CAWD[stored_row_N, :, column_N] = new_BALD[batch_row_N, :, step_N]
        return held_CAWD

    def _select_batch(self, held_CAWD: torch.Tensor) -> torch.Tensor:
        """What is stored of the texts of the pass, in the order of the batch, [B, A, W, D]."""
        layout, rows = self._running.layout, self._running.layout.stored_row_B
        batch_BAWD = held_CAWD[: layout.rows] if rows is None else held_CAWD[rows.to(self.device)]
        return batch_BAWD[:, :, : layout.width]


def _grow(held_CAWD: torch.Tensor, rows: int, columns: int) -> torch.Tensor:
    """The tensor with at least so many rows and columns; new ones are zero."""
    more_rows, more_columns = rows - held_CAWD.shape[0], _round_up(columns) - held_CAWD.shape[2]
    if more_rows <= 0 and more_columns <= 0:
        return held_CAWD
    # grow by more than is needed, so that texts that split one by one copy the tensor rarely
    if more_rows > 0:
        more_rows = max(more_rows, held_CAWD.shape[0] // ROW_SLACK)
    return torch.nn.functional.pad(held_CAWD, (0, 0, 0, max(0, more_columns), 0, 0, 0, max(0, more_rows)))


def _round_up(columns: int) -> int:
    return -(-columns // COLUMNS) * COLUMNS
