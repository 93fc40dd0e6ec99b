"""From logits to the record of a position: the top list, and scalars of the full vocabulary.

Shape legend: N positions, V usable vocabulary, K ids of a padded list (-1 where the list has ended),
E entries of N rows that hold the value at which the list is cut.
"""

from typing import NamedTuple

import numpy as np
import pyarrow as pa
import torch

from fsgen.config.schema import DumpConfig
from fsgen.tables import parquet
from fsgen.tables.schemas.dumps import RECORD

BLOCK = 64
TILE_ELEMENTS = 1 << 18  # what a core's cache holds


class Records(NamedTuple):
    """One model's records at N positions, as numpy arrays."""

    top_ids_NK: np.ndarray
    top_logits_NK: np.ndarray
    max_logit_N: np.ndarray
    logsumexp_N: np.ndarray
    entropy_N: np.ndarray
    min_logit_N: np.ndarray
    outside_logit_N: np.ndarray

    def take(self, rows: np.ndarray) -> "Records":
        """The records at these rows."""
        return Records(*(array[rows] for array in self))

    def columns(self) -> dict[str, pa.Array]:
        """Arrow columns in the order of RECORD."""
        held_NK = self.top_ids_NK >= 0
        lists = [
            parquet.to_list_array(self.top_ids_NK, held_NK),
            parquet.to_list_array(self.top_logits_NK, held_NK),
        ]
        names = [name for name, _, _ in RECORD]
        return dict(zip(names, lists + [pa.array(array) for array in self[2:]], strict=True))


def record(logits_NV: torch.Tensor, dump: DumpConfig) -> Records:
    """Records of float32 logits; entropy in nats, the rule for ties everywhere the lowest id."""
    top_ids_NK, top_logits_NK, outside_N = top_list(logits_NV, dump)
    max_N = top_logits_NK[:, 0]
    total_N, mean_below_N = _moments(logits_NV, max_N)
    scalars = (max_N, max_N + total_N.log(), total_N.log() - mean_below_N, logits_NV.amin(-1), outside_N)
    return Records(*(tensor.cpu().numpy() for tensor in (top_ids_NK, top_logits_NK, *scalars)))


def _moments(logits_NV: torch.Tensor, max_N: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Sum of exp(logit - max), and the distribution's mean of logit - max, [N] each.

    Less the maximum, since logsumexp less mean logit would lose the entropy of near certainty. Some
    rows at a time and in place: fresh memory for every pass costs more than the arithmetic.
    """
    on_host = logits_NV.device.type == "cpu"  # a card has the bandwidth, and dislikes small kernels
    step = max(1, TILE_ELEMENTS // logits_NV.shape[1]) if on_host else len(logits_NV)
    below, weights = torch.empty_like(logits_NV[:step]), torch.empty_like(logits_NV[:step])
    totals, means = [], []
    for rows_TV, max_T in zip(logits_NV.split(step), max_N.split(step), strict=True):
        below_TV = torch.sub(rows_TV, max_T[:, None], out=below[: len(rows_TV)])
        weights_TV = torch.exp(below_TV, out=weights[: len(rows_TV)])
        totals.append(weights_TV.sum(-1))
        means.append(torch.einsum("nv,nv->n", weights_TV, below_TV) / totals[-1])
    return torch.cat(totals), torch.cat(means)


def top_list(logits_NV: torch.Tensor, dump: DumpConfig) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Ids (int32, padded with -1) and logits (padded with -inf) of the stored list, [N, K].

    Third, the largest logit that the list leaves out, [N].
    """
    width = min(dump.k_max, logits_NV.shape[1])
    values_NK, ids_NK, next_N1 = _top(logits_NV, width)
    ids_NK, order = ids_NK.sort(dim=-1)
    values_NK, order = values_NK.gather(1, order).sort(dim=-1, descending=True, stable=True)
    ids_NK = ids_NK.gather(1, order)
    dropped_NK = values_NK < values_NK[:, :1] - dump.depth
    dropped_NK[:, : dump.k_min] = False
    kept_N1 = (~dropped_NK).sum(-1, keepdim=True)
    outside_N = torch.cat([values_NK, next_N1], dim=-1).gather(1, kept_N1)[:, 0]
    return ids_NK.masked_fill(dropped_NK, -1).int(), values_NK.masked_fill(dropped_NK, -torch.inf), outside_N


def _top(logits_NV: torch.Tensor, width: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The `width` largest logits with their ids, of a tie the lowest, and the next logit after them."""
    if width == logits_NV.shape[1]:
        return *logits_NV.topk(width), torch.full_like(logits_NV[:, :1], -torch.inf)
    values_NK, ids_NK = _topk(logits_NV, width + 1)
    # topk breaks ties at its end as it likes, and in bfloat16 most rows end in one
    tied_N = values_NK[:, -2] == values_NK[:, -1]
    if tied_N.any():
        ids_NK[tied_N, :width] = _lowest_at_edge(logits_NV[tied_N], values_NK[tied_N], ids_NK[tied_N])
    return values_NK[:, :width], ids_NK[:, :width], values_NK[:, width:]


def _lowest_at_edge(logits_NV: torch.Tensor, values_NK: torch.Tensor, ids_NK: torch.Tensor) -> torch.Tensor:
    """The ids less the last, those that hold the last value replaced by the lowest ids that have it."""
    ids_NK, edge_N1 = ids_NK[:, :-1].clone(), values_NK[:, -1:]
    is_edge_NK = values_NK[:, :-1] == edge_N1
    row_E, id_E = (logits_NV == edge_N1).nonzero(as_tuple=True)  # by row, then id
    count_N = row_E.bincount(minlength=len(ids_NK))
    rank_E = torch.arange(len(row_E), device=row_E.device) - (count_N.cumsum(0) - count_N)[row_E]
    ids_NK[is_edge_NK] = id_E[rank_E < is_edge_NK.sum(-1)[row_E]]
    return ids_NK


def _topk(logits_NV: torch.Tensor, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """As torch's topk: in a wide vocabulary the largest stand in the blocks with the largest maxima."""
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
    ids = torch.from_numpy(ids_NK).to(logits_NV.device).long()
    taken_NK = logits_NV.gather(1, ids.clamp_min(0))
    return taken_NK.masked_fill(ids < 0, -torch.inf).cpu().numpy()


def largest_gain(tuned_NV: torch.Tensor, small_NV: torch.Tensor, ids_NK: np.ndarray) -> np.ndarray:
    """Maximum of f - s over the ids outside the partner's list, -inf where the list is everything."""
    inside = torch.from_numpy(ids_NK).to(tuned_NV.device).long()
    gain_NV = tuned_NV - small_NV
    rows_N1 = torch.arange(len(gain_NV), device=gain_NV.device)[:, None].expand_as(inside)
    gain_NV[rows_N1[inside >= 0], inside[inside >= 0]] = -torch.inf
    return gain_NV.amax(-1).cpu().numpy()


def join(parts: list[Records]) -> Records:
    """Records one after another."""
    return Records(*(np.concatenate(arrays) for arrays in zip(*parts, strict=True)))
