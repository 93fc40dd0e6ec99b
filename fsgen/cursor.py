"""A model standing at the end of many texts at once, stepping all of them by one token.

Shape legend: B texts side by side, L positions, V usable vocabulary.
"""

import torch
from transformers import DynamicCache

from fsgen.models import Loaded


class Cursor:
    """Key-value cache of B texts; `logits_BV` is what the model says next about each.

    Prompts are padded on the left and the padding masked, so all texts grow in step.
    """

    def __init__(self, loaded: Loaded, prompts: list[list[int]]):
        self.loaded = loaded
        width = max(map(len, prompts))
        padded = [[0] * (width - len(ids)) + ids for ids in prompts]
        held = [[0] * (width - len(ids)) + [1] * len(ids) for ids in prompts]
        self._mask_BL = torch.tensor(held, device=loaded.device)
        self._cache = DynamicCache(config=loaded.network.config)
        positions_BL = (self._mask_BL.cumsum(1) - 1).clamp_min(0)
        self._advance(torch.tensor(padded, device=loaded.device), positions_BL)

    def step(self, ids_B: torch.Tensor) -> None:
        """Append one token to every text."""
        self._mask_BL = torch.nn.functional.pad(self._mask_BL, (0, 1), value=1)
        self._advance(ids_B[:, None], self._mask_BL.sum(1, keepdim=True) - 1)

    def select(self, rows_B: torch.Tensor) -> None:
        """Go on with these rows only, in this order; a row named twice becomes two texts."""
        if torch.equal(rows_B, torch.arange(len(self._mask_BL), device=rows_B.device)):
            return
        self._mask_BL = self._mask_BL[rows_B]
        self.logits_BV = self.logits_BV[rows_B]
        self._cache.batch_select_indices(rows_B)

    def _advance(self, ids_BL: torch.Tensor, positions_BL: torch.Tensor) -> None:
        hidden_BLH = self.loaded.hidden(
            ids_BL,
            attention_mask=self._mask_BL,
            position_ids=positions_BL,
            past_key_values=self._cache,
            use_cache=True,
        )
        self.logits_BV = self.loaded.logits(hidden_BLH[:, -1])
