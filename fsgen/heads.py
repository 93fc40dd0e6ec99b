"""Heads applied to hidden states: what routers see there, and what methods fuse.

Shape legend: B branches, N nodes, H hidden width, V usable vocabulary.
"""

from dataclasses import replace

import numpy as np
import torch

from fsgen import fusion, records, speakers
from fsgen.models import Loaded
from fsgen.policies import Method
from fsgen.settings import Dump
from fsgen.speakers import Speaker


def see(loaded: Loaded, hidden_BH: torch.Tensor, dump: Dump) -> tuple[np.ndarray, Speaker]:
    """Top token [B] of a model, and what routers see of it: the record that a dump would hold."""
    cut = replace(dump, k_max=dump.k_min)
    spans = loaded.spans(len(hidden_BH))
    found = records.join([records.record(loaded.logits(hidden_BH[span]), cut) for span in spans])
    seen = speakers.blank(len(hidden_BH), dump.k_min)
    seen.top_logits_NK[:, : found.top_logits_NK.shape[1]] = found.top_logits_NK
    return found.top_ids_NK[:, 0], seen._replace(logsumexp_N=found.logsumexp_N, entropy_N=found.entropy_N)


def rows_of(logits_NV: torch.Tensor, rows: np.ndarray, mine: np.ndarray) -> torch.Tensor:
    """The logits of `mine`, which are among `rows`; no copy where they are all."""
    if len(rows) == len(mine):
        return logits_NV
    return logits_NV[torch.from_numpy(np.searchsorted(rows, mine)).to(logits_NV.device)]


def fused_ids(method: Method, logits: dict[str, torch.Tensor]) -> np.ndarray:
    """Fused tokens over the full vocabulary, [N]; torch's argmax takes the lowest id of a tie."""
    large, small, tuned = (
        x if x is None else x.double() for x in map(logits.get, ("large", "small", "tuned"))
    )
    may_win_NV = fusion.allowed(method, large, large.amax(-1, keepdim=True))
    scores_NV = fusion.score(method, large, small, tuned).masked_fill(~may_win_NV, -torch.inf)
    return scores_NV.argmax(-1).cpu().numpy().astype(np.int32)
