"""The engine `ray`: shards spread over actors of a Ray cluster, each with models of its own in memory.

Ray queues, restarts and retries. What an actor makes comes back as tables and is written where the stage
runs, by the code that writes the shards of the local engine; so nodes need the package and the checkpoints,
and no disk in common.
"""

import contextlib
import os
import socket
from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import torch

from fsgen.config.schema import ComputeConfig, Settings
from fsgen.errors import UserError
from fsgen.execution import console
from fsgen.execution.executors import ExecutorKind
from fsgen.execution.shards import Executor, Loader, Shard, Worker

RETRIES = 4  # of a shard, and of an actor, which ends where its machine does or where memory runs out
PATIENCE = 5  # seconds for a cluster's address to answer


@contextlib.contextmanager
def open_ray_executor(settings: Settings, load: Loader) -> Iterator[Executor]:
    """A crew of `compute.replicas` actors on the cluster at RAY_ADDRESS, or on one that starts here.

    Complaint, once there is a shard to make, where Ray is not installed, nothing answers at the address or
    it lets nobody in, the cluster is too small, an actor cannot start, or one ended more often than RETRIES
    allow.
    """
    cluster = _Cluster(settings, load)
    with contextlib.closing(cluster):
        yield cluster.make


class _Cluster:
    """Connects and starts actors as there is work for them."""

    def __init__(self, settings: Settings, load: Loader):
        self.settings, self.load = settings, load
        self.ray: Any = None
        self.actors: list = []

    def make(self, shards: list[Shard], bar) -> Iterator[tuple[Shard, dict[str, pa.Table]]]:
        if not shards:
            return
        if not self.ray:
            self.ray = _connect()
            _check_places(self.ray.nodes(), self.settings.compute)
        while len(self.actors) < min(self.settings.compute.replicas, len(shards)):
            self.actors.append(_start_replica(self.ray, self.settings, self.load))
        pool, failures = self.ray.util.ActorPool(self.actors), self.ray.exceptions
        try:
            for index, tables, tokens in pool.map_unordered(_send, [*enumerate(shards)]):
                bar.advance(shards[index].texts, tokens=tokens)
                yield shards[index], tables
        except failures.RayTaskError as error:
            raise error.cause from error
        except (failures.RayActorError, failures.OutOfMemoryError) as error:
            raise _lost(shards[0], error) from error

    def close(self) -> None:
        if self.ray:
            self.ray.shutdown()


class Replica:
    """A worker in a process of its own; Ray makes an actor of it."""

    def __init__(self, settings: Settings, load: Loader, threads: int):
        torch.set_num_threads(threads)  # as where the stage runs: sums over other parts would round otherwise
        self.worker = Worker(settings, load)

    def make(self, index: int, shard: Shard, kept: Any) -> tuple[int, dict[str, pa.Table], int]:
        """Which shard this is, its tables, and the tokens that went through models for it."""
        bar = console.Count()
        return index, self.worker.make(shard, kept, bar), bar.tokens


def _send(actor, numbered: tuple[int, Shard]):
    index, shard = numbered
    return actor.make.remote(index, shard, shard.bring(shard))


def _start_replica(ray, settings: Settings, load: Loader):
    options = {
        "num_cpus": 1,
        "num_gpus": settings.compute.gpus_per_replica,
        "max_restarts": RETRIES,
        "max_task_retries": RETRIES,
    }
    return ray.remote(Replica).options(**options).remote(settings, load, torch.get_num_threads())


def _lost(shard: Shard, error) -> UserError:
    """What to say where an actor is gone for good; only one that had started was restarted before."""
    names = ", ".join(model.name for model in shard.members.values())
    if getattr(error, "actor_init_failed", False):
        said = str(error).strip().splitlines()[-1]  # the exception itself; where Ray met it stands above
        return UserError(
            f"A replica of {names} should start on any node, and got {said.strip()}; install fsgen on every "
            "node, with what it needs, in the versions of this machine."
        )
    return UserError(
        f"A replica of {names} ended more often than the {RETRIES} times that Ray restarts it, over one or "
        "several shards; look into Ray's logs, for want of memory first."
    )


def _connect():
    """The package ray, connected; Complaint where that cannot be."""
    ray = _import_ray()
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    address = os.environ.get("RAY_ADDRESS")
    if not address:
        # given none, Ray would join whatever cluster was started here last
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
    """The package ray; Complaint where it is not installed."""
    try:
        import ray
        import ray.util
    except ImportError as error:
        raise UserError(
            "compute.engine is ray, which is not installed; run pip install -e '.[ray]'."
        ) from error
    return ray


def _check_places(nodes: list[dict], compute: ComputeConfig) -> None:
    """Complaint where the nodes cannot hold `replicas` actors at once; Ray would wait for ever.

    A stage that lacks fewer shards starts fewer actors, and is refused too: so are all stages of a file
    alike, rather than one after hours of others.
    """
    wanted, held = compute.replicas, count_places(nodes, compute.gpus_per_replica)
    if wanted > held:
        raise UserError(
            f"The cluster's nodes should have room for the {wanted} actors of compute.replicas, with a core "
            f"and {compute.gpus_per_replica} cards each, and have it for {held}; lower replicas or "
            "gpus_per_replica, or add nodes."
        )


def count_places(nodes: list[dict], cards: int) -> int:
    """How many actors of a core and so many cards the nodes that `ray.nodes()` tells of hold together.

    An actor lies on one node, so what one lacks no other makes up for. What others hold now counts as free:
    Ray waits until they give it back.
    """

    def count(held: dict[str, float]) -> int:
        cores = int(held.get("CPU", 0))
        return min(cores, int(held.get("GPU", 0)) // cards) if cards else cores

    return sum(count(node["Resources"]) for node in nodes if node["Alive"])


def _check_reachable(address: str) -> None:
    """Complaint where nobody listens at host:port, so that Ray need not wait for minutes to say so."""
    host, _, port = address.rpartition("//")[2].rpartition(":")
    if not port.isdigit():
        return  # `auto` and `local`, which Ray resolves
    try:
        socket.create_connection((host, int(port)), timeout=PATIENCE).close()
    except OSError as error:
        raise UserError(
            f"RAY_ADDRESS is '{address}', but nothing answers there ({error}); start the cluster's head or "
            "correct the address."
        ) from error


RAY = ExecutorKind(open_ray_executor, is_cluster=True)
