"""The executor `ray`: actors of a Ray cluster make the shards, each with models in its memory.

Ray queues, restarts and retries. An actor returns its tables to the stage's process, which writes them as it
writes those of the local executor. Nodes therefore need the package and the checkpoints, but no common disk.
"""

import contextlib
import os
import socket
from collections.abc import Iterator
from typing import Any

import torch

from fsgen.config.schema import ComputeConfig
from fsgen.errors import UserError
from fsgen.execution import console
from fsgen.execution.executors import ExecutorKind
from fsgen.execution.shards import Executor, Loader, Shard, Tables, Worker

RETRIES = 4  # of a shard, and of an actor, which ends if its machine does or if memory runs out
CONNECT_TIMEOUT_S = 5


@contextlib.contextmanager
def open_ray_executor(compute: ComputeConfig, load: Loader) -> Iterator[Executor]:
    """`compute.replicas` actors on the cluster at RAY_ADDRESS, or on one that is started on this machine.

    UserError, once there is a shard to make, if Ray is not installed, the cluster cannot be reached, refuses
    the connection or is too small, an actor cannot start, or one ended more often than RETRIES allows.
    """
    cluster = _Cluster(compute, load)
    with contextlib.closing(cluster):
        yield cluster.make


class _Cluster:
    """Connects, and starts actors, once there is work for them."""

    def __init__(self, compute: ComputeConfig, load: Loader):
        self.compute, self.load = compute, load
        self.ray: Any = None
        self.actors: list = []

    def make(self, shards: list[Shard], bar) -> Iterator[tuple[Shard, Tables]]:
        if not shards:
            return
        if not self.ray:
            self.ray = _connect()
            _check_places(self.ray.nodes(), self.compute)
        while len(self.actors) < min(self.compute.replicas, len(shards)):
            self.actors.append(_start_replica(self.ray, self.compute, self.load))
        yield from self._collect(shards, bar)

    def _collect(self, shards: list[Shard], bar) -> Iterator[tuple[Shard, Tables]]:
        """The shards as actors finish them; an actor's UserError is raised here."""
        pool, failures = self.ray.util.ActorPool(self.actors), self.ray.exceptions
        try:
            for index, tables, tokens in pool.map_unordered(_send, [*enumerate(shards)]):
                bar.advance(shards[index].texts, tokens=tokens)
                yield shards[index], tables
        except failures.RayTaskError as error:
            raise error.cause from error
        except (failures.RayActorError, failures.OutOfMemoryError) as error:
            raise _actor_error(shards[0], error) from error

    def close(self) -> None:
        if self.ray:
            self.ray.shutdown()


class Replica:
    """A worker in a process that Ray starts as an actor."""

    def __init__(self, compute: ComputeConfig, load: Loader, threads: int):
        # as many as in the stage's process, since sums that are divided otherwise round differently
        torch.set_num_threads(threads)
        self.worker = Worker(compute, load)

    def make(self, index: int, shard: Shard, prefetched: Any) -> tuple[int, Tables, int]:
        """The shard's index, its tables, and the number of tokens that went through models for it."""
        counter = console.TokenCounter()
        return index, self.worker.make(shard, prefetched, counter), counter.tokens


def _send(actor, numbered: tuple[int, Shard]):
    index, shard = numbered
    return actor.make.remote(index, shard, shard.prefetch(shard))


def _start_replica(ray, compute: ComputeConfig, load: Loader):
    options = {
        "num_cpus": 1,
        "num_gpus": compute.gpus_per_replica,
        "max_restarts": RETRIES,
        "max_task_retries": RETRIES,
    }
    return ray.remote(Replica).options(**options).remote(compute, load, torch.get_num_threads())


def _actor_error(shard: Shard, error) -> UserError:
    """The message about an actor that Ray does not restart: it never started, or ended too often."""
    names = ", ".join(model.name for model in shard.models.values())
    if getattr(error, "actor_init_failed", False):
        cause = str(error).strip().splitlines()[-1].strip()  # Ray's traceback comes before it
        return UserError(
            f"A replica of {names} should start on any node, and got {cause}; install fsgen on every "
            "node, with what it needs, in the versions of this machine."
        )
    return UserError(
        f"A replica of {names} ended more often than the {RETRIES} times that Ray restarts it, over one or "
        "several shards; look into Ray's logs, for want of memory first."
    )


def _connect():
    """The package ray, connected; UserError if that fails."""
    ray = _import_ray()
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    address = os.environ.get("RAY_ADDRESS")
    if not address:
        # without an address, Ray would join the cluster that was started last on this machine
        ray.init(address="local", include_dashboard=False, logging_level="warning")
        return ray
    _check_reachable(address)
    try:
        ray.init(address=address, logging_level="warning")
    except (ConnectionError, ray.exceptions.RayError) as error:
        raise UserError(
            f"RAY_ADDRESS is '{address}', where Ray should let this machine in, and got {error}; correct the "
            "address, or set RAY_AUTH_MODE=token where the head wants a token."
        ) from error
    return ray


def _import_ray():
    """The package ray; UserError if it is not installed."""
    try:
        import ray
        import ray.util
    except ImportError as error:
        raise UserError(
            "compute.executor is ray, which is not installed; run pip install -e '.[ray]'."
        ) from error
    return ray


def _check_places(nodes: list[dict], compute: ComputeConfig) -> None:
    """UserError if the nodes cannot hold `replicas` actors at once; Ray would wait for ever.

    A stage with fewer missing shards starts fewer actors and is refused too, so that the first stage of a run
    is refused and not one after hours.
    """
    wanted, places = compute.replicas, count_places(nodes, compute.gpus_per_replica)
    if wanted > places:
        raise UserError(
            f"The cluster's nodes should hold the {wanted} actors of compute.replicas, with a core "
            f"and {compute.gpus_per_replica} cards each, and have it for {places}; lower replicas or "
            "gpus_per_replica, or add nodes."
        )


def count_places(nodes: list[dict], cards: int) -> int:
    """How many actors of one core and `cards` cards fit on the nodes, as `ray.nodes()` lists them.

    An actor needs both on one node. What other jobs use counts as free: Ray waits until they return it.
    """

    def count(resources: dict[str, float]) -> int:
        cores = int(resources.get("CPU", 0))
        return min(cores, int(resources.get("GPU", 0)) // cards) if cards else cores

    return sum(count(node["Resources"]) for node in nodes if node["Alive"])


def _check_reachable(address: str) -> None:
    """UserError if nothing listens at host:port; Ray would wait for minutes."""
    host, _, port = address.rpartition("//")[2].rpartition(":")
    if not port.isdigit():
        return  # `auto` and `local`, which Ray resolves
    try:
        socket.create_connection((host, int(port)), timeout=CONNECT_TIMEOUT_S).close()
    except OSError as error:
        raise UserError(
            f"RAY_ADDRESS is '{address}', but nothing answers there ({error}); start the cluster's head or "
            "correct the address."
        ) from error


RAY = ExecutorKind(open_ray_executor, is_cluster=True)
