"""Executors: what makes the shards of a stage that runs models, as `compute.engine` says."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import NamedTuple

import pyarrow as pa

from fsgen.config.schema import Settings
from fsgen.execution.shards import Executor, Loader, Shard, Worker


class ExecutorKind(NamedTuple):
    """A way to make shards, as the registry names it."""

    open: Callable[[Settings, Loader], AbstractContextManager[Executor]]
    is_cluster: bool = False
    """Whether models run elsewhere, in `compute.replicas` processes with cards of their own."""


def open_executor(settings: Settings, load: Loader) -> AbstractContextManager[Executor]:
    """The executor of a stage; models that `load` brings stay in memory until the block ends."""
    return settings.compute.definition.open(settings, load)


@contextmanager
def _local(settings: Settings, load: Loader) -> Iterator[Executor]:
    """One worker, in this process."""
    worker = Worker(settings, load)

    def crew(shards: list[Shard], bar) -> Iterator[tuple[Shard, dict[str, pa.Table]]]:
        for shard in shards:
            yield shard, worker.make(shard, shard.bring(shard), bar)

    yield crew


LOCAL = ExecutorKind(_local)
