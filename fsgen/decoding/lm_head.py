"""Heads applied to hidden states: what routers see there, and what methods fuse.

Shape legend: B branches, N nodes, H hidden width, V usable vocabulary.
"""

from dataclasses import replace

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
    """Top token [B] of a model, and what routers see of it: the record that a dump would hold."""
    cut = replace(dump, k_max=dump.k_min)
    spans = loaded.spans(len(hidden_BH))
    found = records.join([records.record(loaded.logits(hidden_BH[span]), cut) for span in spans])
    seen = router_input.blank_router_input(len(hidden_BH), dump.k_min)
    seen.top_logits_NK[:, : found.top_logits_NK.shape[1]] = found.top_logits_NK
    return found.top_ids_NK[:, 0], seen._replace(logsumexp_N=found.logsumexp_N, entropy_N=found.entropy_N)


def rows_of(logits_NV: torch.Tensor, rows: np.ndarray, mine: np.ndarray) -> torch.Tensor:
    """The logits of `mine`, which are among `rows`; no copy where they are all."""
    if len(rows) == len(mine):
        return logits_NV
    return logits_NV[torch.from_numpy(np.searchsorted(rows, mine)).to(logits_NV.device)]


def fused_ids(method: Method, logits: dict[str, torch.Tensor]) -> np.ndarray:
    """Fused tokens over the full vocabulary, [N]; the lowest id of a tie."""
    rule = fusion.RULES[method.rule]
    if rule.masked:
        return _fused_plausible(method, logits["large"], logits["small"])
    if len(rule.inputs) > 1:  # sums need float64; a logit itself float32 orders alike
        logits = {role: logits[role].double() for role in rule.inputs}
    scores_NV = fusion.score(method, *map(logits.get, ("large", "small", "tuned")))
    return scores_NV.argmax(-1).cpu().numpy().astype(np.int32)


def _fused_plausible(method: Method, large_NV: torch.Tensor, small_NV: torch.Tensor) -> np.ndarray:
    """`fused_ids` under a mask, which leaves a handful of ids: only their scores are made.

    Shape legend: P plausible pairs of row and id, by row and id.
    """
    max_N1 = large_NV.amax(-1, keepdim=True).double()
    # a float32 at or above the floor is at or above the next lower float32 too
    below_N1 = torch.nextafter(
        fusion.mask_threshold(method, max_N1).float(), max_N1.new_tensor(-torch.inf).float()
    )
    row_P, id_P = (large_NV >= below_N1).nonzero(as_tuple=True)
    l_P, s_P = large_NV[row_P, id_P].double(), small_NV[row_P, id_P].double()
    scores_P = fusion.score(method, l_P, s_P, None)
    scores_P = scores_P.masked_fill(~fusion.plausibility_mask(method, l_P, max_N1[row_P, 0]), -torch.inf)
    row_P, id_P, scores_P = (x.cpu().numpy() for x in (row_P, id_P, scores_P))
    best_N = np.maximum.reduceat(scores_P, np.searchsorted(row_P, np.arange(len(large_NV))))
    is_best_P = scores_P == best_N[row_P]
    _, first_N = np.unique(row_P[is_best_P], return_index=True)
    return id_P[is_best_P][first_N].astype(np.int32)
