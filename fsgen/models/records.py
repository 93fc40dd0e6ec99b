"""The record of a position, made of a model's logits: the top list, and scalars of the full vocabulary.

Shape legend: N positions, V usable vocabulary, K ids of a padded list (-1 where the list has ended),
T positions of a tile, C blocks of BLOCK ids, X ids of some blocks,
E entries of N rows that equal the value at which the list is cut.
"""

from typing import NamedTuple

import numpy as np
import polars as pl
import pyarrow as pa
import torch

from fsgen.config.schema import DumpConfig
from fsgen.tables import parquet
from fsgen.tables.schemas.dumps import RECORD

BLOCK = 64
TILE_ELEMENTS = 1 << 18  # what a core's cache holds


class TokenRecords(NamedTuple):
    """One model's records at N positions, as numpy arrays."""

    top_ids_NK: np.ndarray
    """Ids by falling logit, int32."""
    top_logits_NK: np.ndarray
    """Their logits; -inf where the list has ended."""
    max_logit_N: np.ndarray
    logsumexp_N: np.ndarray
    entropy_N: np.ndarray
    """Nats."""
    min_logit_N: np.ndarray
    max_outside_logit_N: np.ndarray
    """Largest logit outside the list."""

    def take(self, rows: np.ndarray) -> "TokenRecords":
        """The records at these rows."""
        return TokenRecords(*(array[rows] for array in self))

    def to_table(self) -> pa.Table:
        """The records as columns of RECORD, lists without their padding."""
        is_listed_NK = self.top_ids_NK >= 0
        ids, logits = (parquet.to_list_array(array, is_listed_NK) for array in self[:2])
        scalars = [pa.array(array) for array in self[2:]]
        return pa.table([ids, logits, *scalars], names=[name for name, _, _ in RECORD])

    @classmethod
    def from_table(cls, table: pa.Table) -> "TokenRecords":
        """The records in a table's columns of RECORD, lists padded to the longest."""
        ids, logits, *scalars = (pl.from_arrow(table[name]) for name, _, _ in RECORD)
        lists = parquet.pad_lists(ids, -1), parquet.pad_lists(logits, -np.inf)
        return cls(*lists, *(series.to_numpy() for series in scalars))


def join(parts: list[TokenRecords]) -> TokenRecords:
    """Records one after another."""
    return TokenRecords(*(np.concatenate(arrays) for arrays in zip(*parts, strict=True)))


def record(logits_NV: torch.Tensor, dump: DumpConfig) -> TokenRecords:
    """Records of float32 logits; of equal logits the lowest id comes first."""
    top_ids_NK, top_logits_NK, outside_N = top_list(logits_NV, dump)
    max_N = top_logits_NK[:, 0]
    total_N, mean_below_N = _moments(logits_NV, max_N)
    tensors = TokenRecords(
        top_ids_NK=top_ids_NK,
        top_logits_NK=top_logits_NK,
        max_logit_N=max_N,
        logsumexp_N=max_N + total_N.log(),
        entropy_N=total_N.log() - mean_below_N,
        min_logit_N=logits_NV.amin(-1),
        max_outside_logit_N=outside_N,
    )
    return TokenRecords(*(tensor.cpu().numpy() for tensor in tensors))


def _moments(logits_NV: torch.Tensor, max_N: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Sum of exp(logit - max), and the distribution's mean of logit - max, [N] each.

    The maximum is subtracted first: logsumexp minus mean logit would round a small entropy away. On a CPU it
    works on a few rows at a time, in place, since fresh memory for every pass costs more than the arithmetic.
    """
    is_cpu = logits_NV.device.type == "cpu"  # a card has the bandwidth, and small kernels are slow there
    step = max(1, TILE_ELEMENTS // logits_NV.shape[1]) if is_cpu else len(logits_NV)
    below, weights = torch.empty_like(logits_NV[:step]), torch.empty_like(logits_NV[:step])
    totals, means = [], []
    for rows_TV, max_T in zip(logits_NV.split(step), max_N.split(step), strict=True):
        below_TV = torch.sub(rows_TV, max_T[:, None], out=below[: len(rows_TV)])
        weights_TV = torch.exp(below_TV, out=weights[: len(rows_TV)])
        totals.append(weights_TV.sum(-1))
        means.append(torch.einsum("nv,nv->n", weights_TV, below_TV) / totals[-1])
    return torch.cat(totals), torch.cat(means)


class TopList(NamedTuple):
    """Lists of the largest logits at N positions, and what comes after them."""

    ids_NK: torch.Tensor
    logits_NK: torch.Tensor
    outside_N: torch.Tensor
    """Largest logit outside the list."""


def top_list(logits_NV: torch.Tensor, dump: DumpConfig) -> TopList:
    """The lists that a dump stores: ids int32, padded with -1, logits padded with -inf."""
    width = min(dump.max_top_k, logits_NV.shape[1])
    ids_NK, values_NK, next_N = _largest(logits_NV, width)
    ids_NK, order_NK = ids_NK.sort(dim=-1)
    values_NK, order_NK = values_NK.gather(1, order_NK).sort(dim=-1, descending=True, stable=True)
    ids_NK = ids_NK.gather(1, order_NK)
    is_dropped_NK = values_NK < values_NK[:, :1] - dump.nats_below_top
    is_dropped_NK[:, : dump.min_top_k] = False
    kept_N1 = (~is_dropped_NK).sum(-1, keepdim=True)
    outside_N = torch.cat([values_NK, next_N[:, None]], dim=-1).gather(1, kept_N1)[:, 0]
    ids_NK = ids_NK.masked_fill(is_dropped_NK, -1).int()
    return TopList(ids_NK, values_NK.masked_fill(is_dropped_NK, -torch.inf), outside_N)


def _largest(logits_NV: torch.Tensor, width: int) -> TopList:
    """The `width` largest logits, of a tie those with the lowest ids, in any order."""
    if width == logits_NV.shape[1]:
        values_NK, ids_NK = logits_NV.topk(width)
        return TopList(ids_NK, values_NK, torch.full_like(logits_NV[:, 0], -torch.inf))
    values_NK, ids_NK = _topk(logits_NV, width + 1)
    # topk may take any ids of a tie at its end, and in bfloat16 most rows end in one
    is_tied_N = values_NK[:, -2] == values_NK[:, -1]
    if is_tied_N.any():
        ids_NK[is_tied_N, :width] = _lowest_at_edge(
            logits_NV[is_tied_N], values_NK[is_tied_N], ids_NK[is_tied_N]
        )
    return TopList(ids_NK[:, :width], values_NK[:, :width], values_NK[:, width])


def _lowest_at_edge(logits_NV: torch.Tensor, values_NK: torch.Tensor, ids_NK: torch.Tensor) -> torch.Tensor:
    """All ids but the last; those with the last value are replaced by the lowest ids that have it."""
    ids_NK, edge_N1 = ids_NK[:, :-1].clone(), values_NK[:, -1:]
    is_edge_NK = values_NK[:, :-1] == edge_N1
    row_E, id_E = (logits_NV == edge_N1).nonzero(as_tuple=True)  # by row, then id
    count_N = row_E.bincount(minlength=len(ids_NK))
    rank_E = torch.arange(len(row_E), device=row_E.device) - (count_N.cumsum(0) - count_N)[row_E]
    ids_NK[is_edge_NK] = id_E[rank_E < is_edge_NK.sum(-1)[row_E]]
    return ids_NK


def _topk(logits_NV: torch.Tensor, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """As torch's topk; in a wide vocabulary it looks only into the blocks with the largest maxima."""
    whole = logits_NV.shape[1] // BLOCK * BLOCK
    if whole <= 4 * count * BLOCK:
        return logits_NV.topk(count)
    blocks_NCB = logits_NV[:, :whole].unflatten(1, (-1, BLOCK))
    block_NK1 = blocks_NCB.amax(-1).topk(count).indices[..., None]
    inside = torch.arange(BLOCK, device=logits_NV.device)
    ids_NX = (block_NK1 * BLOCK + inside).flatten(1)
    rest_X = torch.arange(whole, logits_NV.shape[1], device=logits_NV.device)
    ids_NX = torch.cat([ids_NX, rest_X.expand(len(ids_NX), -1)], dim=1)
    values_NK, order_NK = logits_NV.gather(1, ids_NX).topk(count)
    return values_NK, ids_NX.gather(1, order_NK)


def gather(logits_NV: torch.Tensor, ids_NK: np.ndarray) -> np.ndarray:
    """Logits at the given ids, -inf where the id is -1."""
    index_NK = torch.from_numpy(ids_NK).to(logits_NV.device).long()
    taken_NK = logits_NV.gather(1, index_NK.clamp_min(0))
    return taken_NK.masked_fill(index_NK < 0, -torch.inf).cpu().numpy()


def largest_gain(tuned_NV: torch.Tensor, small_NV: torch.Tensor, ids_NK: np.ndarray) -> np.ndarray:
    """Maximum of tuned minus small logit over the ids that are not listed, [N]; -inf if all ids are."""
    index_NK = torch.from_numpy(ids_NK).to(tuned_NV.device).long()
    gain_NV = tuned_NV - small_NV
    row_NK = torch.arange(len(gain_NV), device=gain_NV.device)[:, None].expand_as(index_NK)
    is_listed_NK = index_NK >= 0
    gain_NV[row_NK[is_listed_NK], index_NK[is_listed_NK]] = -torch.inf
    return gain_NV.amax(-1).cpu().numpy()
