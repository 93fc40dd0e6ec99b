"""Heads applied to hidden states: what routers see of a model, and the tokens that methods fuse.

Shape legend: B branches, N nodes, K most likely tokens that routers see, H hidden width, V usable vocabulary.
"""

from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch

from fsgen.collaboration import fusion, router_input
from fsgen.collaboration.router_input import RouterInput
from fsgen.config.policies import Method
from fsgen.config.schema import DumpConfig
from fsgen.models import records
from fsgen.models.loaded_model import LoadedModel


def router_input_from_hidden(
    loaded: LoadedModel, hidden_BH: torch.Tensor, dump: DumpConfig
) -> tuple[np.ndarray, RouterInput]:
    """Top tokens [B] of a model and what routers see of it, equal to what a dump stores."""
    visible = replace(dump, max_top_k=dump.min_top_k)
    chunks = [hidden_BH[span] for span in loaded.row_chunks(len(hidden_BH))]
    stored = records.join([records.record(loaded.logits(chunk), visible) for chunk in chunks])
    seen = router_input.blank_router_input(len(hidden_BH), dump.min_top_k)
    seen.top_logits_NK[:, : stored.top_logits_NK.shape[1]] = stored.top_logits_NK
    seen = seen._replace(logsumexp_N=stored.logsumexp_N, entropy_N=stored.entropy_N)
    return stored.top_ids_NK[:, 0], seen


class NodeLogits(NamedTuple):
    """A model's logits at some of the nodes."""

    rows: np.ndarray
    """Which nodes, ascending."""
    logits_NV: torch.Tensor

    def take(self, rows: np.ndarray) -> torch.Tensor:
        """The logits at these nodes, which are among its own; no copy where they are all."""
        if len(rows) == len(self.rows):
            return self.logits_NV
        index = torch.from_numpy(np.searchsorted(self.rows, rows))
        return self.logits_NV[index.to(self.logits_NV.device)]


def fused_ids(method: Method, logits: dict[str, torch.Tensor]) -> np.ndarray:
    """A method's tokens over the full vocabulary, int32 [N]; the lowest id of a tie.

    `logits` maps the roles that the method reads to [N, V].
    """
    rule = method.definition
    if rule.masked:
        return _plausible_ids(method, logits["large"], logits["small"])
    if len(rule.inputs) > 1:  # sums need float64; a logit itself has the same order in float32
        logits = {role: logits[role].double() for role in rule.inputs}
    scores_NV = fusion.score(method, *map(logits.get, ("large", "small", "tuned")))
    return scores_NV.argmax(-1).cpu().numpy().astype(np.int32)


def _plausible_ids(method: Method, large_NV: torch.Tensor, small_NV: torch.Tensor) -> np.ndarray:
    """`fused_ids` for a masked rule: only the few ids that the mask leaves are scored.

    Shape legend: P plausible pairs of row and id, by row and id.
    """
    # the mask leaves a handful of a hundred thousand ids: scoring only these saves a float64 copy of all
    max_N1 = large_NV.amax(-1, keepdim=True).double()
    row_P, id_P = _candidates(large_NV, fusion.mask_threshold(method, max_N1))
    large_P, small_P = large_NV[row_P, id_P].double(), small_NV[row_P, id_P].double()
    scores_P = fusion.score(method, large_P, small_P, None)
    is_masked_P = ~fusion.plausibility_mask(method, large_P, max_N1[row_P, 0])
    scores_P = scores_P.masked_fill(is_masked_P, -torch.inf)
    return _best_ids(*(tensor.cpu().numpy() for tensor in (row_P, id_P, scores_P)))


def _candidates(large_NV: torch.Tensor, threshold_N1: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows and ids [P] of all float32 logits that may reach a float64 threshold."""
    # a float32 that is at least the threshold is at least the float32 before the rounded threshold
    bound_N1 = torch.nextafter(threshold_N1.float(), threshold_N1.new_tensor(-torch.inf).float())
    return (large_NV >= bound_N1).nonzero(as_tuple=True)


def _best_ids(row_P: np.ndarray, id_P: np.ndarray, scores_P: np.ndarray) -> np.ndarray:
    """The id with the highest score of every row, the lowest of a tie; every row has a pair."""
    _, first_N = np.unique(row_P, return_index=True)
    best_N = np.maximum.reduceat(scores_P, first_N)
    is_best_P = scores_P == best_N[row_P]
    # pairs are in the order of ids within a row, so the first of the best has the lowest id
    _, first_N = np.unique(row_P[is_best_P], return_index=True)
    return id_P[is_best_P][first_N].astype(np.int32)
