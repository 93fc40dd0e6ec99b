"""Engines: who makes the shards of a stage that runs models, as `compute.engine` says."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

import pyarrow as pa

from fsgen import cluster
from fsgen.settings import Settings
from fsgen.shards import Crew, Shard
from fsgen.workers import Worker


def open_crew(settings: Settings) -> AbstractContextManager[Crew]:
    """The crew of a stage; its models stay in memory until the block ends."""
    return ENGINES[settings.compute.engine](settings)


@contextmanager
def _local(settings: Settings) -> Iterator[Crew]:
    """One worker, in this process."""
    worker = Worker(settings)

    def crew(shards: list[Shard], bar) -> Iterator[tuple[Shard, dict[str, pa.Table]]]:
        for shard in shards:
            yield shard, worker.make(shard, shard.bring(shard), bar)

    yield crew


ENGINES = {"local": _local, "ray": cluster.open_cluster}
