"""Engines: who makes the shards of a stage that runs models, as `compute.engine` says."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

import pyarrow as pa

from fsgen.config.schema import Settings
from fsgen.execution import ray_executor
from fsgen.execution.shards import Executor, Loader, Shard, Worker


def open_executor(settings: Settings, load: Loader) -> AbstractContextManager[Executor]:
    """The executor of a stage; models that `load` brings stay in memory until the block ends."""
    return EXECUTORS[settings.compute.engine](settings, load)


@contextmanager
def _local(settings: Settings, load: Loader) -> Iterator[Executor]:
    """One worker, in this process."""
    worker = Worker(settings, load)

    def crew(shards: list[Shard], bar) -> Iterator[tuple[Shard, dict[str, pa.Table]]]:
        for shard in shards:
            yield shard, worker.make(shard, shard.bring(shard), bar)

    yield crew


EXECUTORS = {"local": _local, "ray": ray_executor.open_ray_executor}
