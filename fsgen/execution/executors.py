"""Executors: what makes the shards of a stage that runs models, as `compute.executor` names it."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import NamedTuple

from fsgen.config.schema import ComputeConfig
from fsgen.execution.shards import Executor, Loader, Shard, Tables, Worker


class ExecutorKind(NamedTuple):
    """A way to make shards, as the registry names it."""

    open: Callable[[ComputeConfig, Loader], AbstractContextManager[Executor]]
    is_cluster: bool = False
    """Whether models run elsewhere, in `compute.replicas` processes with cards of their own."""


def open_executor(compute: ComputeConfig, load: Loader) -> AbstractContextManager[Executor]:
    """The executor of a stage; models that `load` brings stay in memory until the block ends."""
    return compute.definition.open(compute, load)


@contextmanager
def _local(compute: ComputeConfig, load: Loader) -> Iterator[Executor]:
    """One worker, in this process."""
    worker = Worker(compute, load)

    def execute(shards: list[Shard], bar) -> Iterator[tuple[Shard, Tables]]:
        for shard in shards:
            yield shard, worker.make(shard, shard.prefetch(shard), bar)

    yield execute


LOCAL = ExecutorKind(_local)
