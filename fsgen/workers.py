"""A worker: models in memory that make one shard after another, in this process or on a far machine."""

from typing import Any

import pyarrow as pa

from fsgen import cursor
from fsgen.models import Budget, Loaded
from fsgen.settings import Settings
from fsgen.shards import Hands, Shard


class Worker:
    """Loads the models of the first shard, and others only for a shard that wants others."""

    def __init__(self, settings: Settings):
        self.settings = settings
        self._loaded: dict[str, Loaded] = {}
        self._budgets: dict[str, Budget] = {}

    def make(self, shard: Shard, kept: Any, bar) -> dict[str, pa.Table]:
        """The shard's tables; `kept` is what its `bring` returned where the stage runs."""
        size, unit = shard.limit
        budget = self._budgets.setdefault(unit, Budget(size, unit))
        return shard.make(Hands(self._load(shard), budget, bar, kept))

    def _load(self, shard: Shard) -> dict[str, Loaded]:
        wanted = {role: model.name for role, model in shard.members.items()}
        if wanted != {role: model.name for role, model in self._loaded.items()}:
            self._loaded = {}  # before others come
            self._loaded = {role: cursor.load_weights(self.settings, m) for role, m in shard.members.items()}
        return self._loaded
