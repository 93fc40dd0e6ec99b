"""A model in memory: tokens to hidden states to float32 logits.

Shape legend: B texts side by side, L positions, H hidden width, N chosen positions, V usable vocabulary.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from transformers import PreTrainedModel

from fsgen.errors import UserError
from fsgen.models.spec import ModelSpec

# logits in memory at once; in float32 just over 32 MiB, above which malloc returns freed memory at once
HEAD_ELEMENTS = 10_000_000


@dataclass(frozen=True)
class LoadedModel(ModelSpec):
    """A model in memory."""

    network: PreTrainedModel
    device: torch.device
    """Where it takes ids and leaves states and logits; its layers may lie on other cards."""

    def hidden_states(self, ids_BL: torch.Tensor, **where) -> torch.Tensor:
        """Last hidden states [B, L, H]; `where` holds mask, positions and cache by the network's names."""
        first = self.network.device
        given = {name: x.to(first) if isinstance(x, torch.Tensor) else x for name, x in where.items()}
        return self.network.base_model(input_ids=ids_BL.to(first), **given).last_hidden_state.to(self.device)

    def row_chunks(self, count: int) -> Iterator[slice]:
        """Slices of `count` rows; the logits of one slice may be in memory at once."""
        step = max(1, HEAD_ELEMENTS // self.vocabulary)
        return (slice(start, start + step) for start in range(0, count, step))

    def logits(self, hidden_NH: torch.Tensor) -> torch.Tensor:
        """Float32 logits [N, V], computed in the precision of the head; UserError on NaN or infinity."""
        head = self.network.get_output_embeddings()
        whole_NV = head(hidden_NH.to(head.weight.device))
        logits_NV = whole_NV[:, : self.vocabulary].to(self.device).float()
        if not torch.isfinite(logits_NV.sum()):
            raise UserError(
                f"{self.name} produced NaN or infinite logits in {self.network.dtype}; "
                "use float32 for it, or check its weights."
            )
        return logits_NV
