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

from fsgen import console
from fsgen.settings import Compute, Settings
from fsgen.shards import Crew, Shard
from fsgen.typed import Complaint
from fsgen.workers import Worker

RETRIES = 4  # of a shard, and of an actor, which ends where its machine does or where memory runs out
PATIENCE = 5  # seconds for a cluster's address to answer


@contextlib.contextmanager
def open_cluster(settings: Settings) -> Iterator[Crew]:
    """A crew of `compute.replicas` actors on the cluster at RAY_ADDRESS, or on one that starts here.

    Complaint, once there is a shard to make, where Ray is not installed, nothing answers at the
    address, the cluster is too small, or an actor ended more often than RETRIES allow.
    """
    cluster = _Cluster(settings)
    with contextlib.closing(cluster):
        yield cluster.make


class _Cluster:
    """Connects and starts actors as there is work for them."""

    def __init__(self, settings: Settings):
        self.settings = settings
        self.ray: Any = None
        self.actors: list = []

    def make(self, shards: list[Shard], bar) -> Iterator[tuple[Shard, dict[str, pa.Table]]]:
        if not shards:
            return
        self.ray = self.ray or _connect(self.settings.compute)
        while len(self.actors) < min(self.settings.compute.replicas, len(shards)):
            self.actors.append(_start_replica(self.ray, self.settings))
        pool, failures = self.ray.util.ActorPool(self.actors), self.ray.exceptions
        try:
            for index, tables, tokens in pool.map_unordered(_send, [*enumerate(shards)]):
                bar.advance(shards[index].texts, tokens=tokens)
                yield shards[index], tables
        except failures.RayTaskError as error:
            raise error.cause from error
        except failures.RayActorError as error:
            names = ", ".join(model.name for model in shards[0].members.values())
            raise Complaint(
                f"A replica of {names} ended {RETRIES + 1} times over one shard; look into Ray's logs, "
                "for want of memory first."
            ) from error

    def close(self) -> None:
        if self.ray:
            self.ray.shutdown()


class Replica:
    """A worker in a process of its own; Ray makes an actor of it."""

    def __init__(self, settings: Settings, threads: int):
        torch.set_num_threads(threads)  # as where the stage runs: sums over other parts would round otherwise
        self.worker = Worker(settings)

    def make(self, index: int, shard: Shard, kept: Any) -> tuple[int, dict[str, pa.Table], int]:
        """Which shard this is, its tables, and the tokens that went through models for it."""
        bar = console.Count()
        return index, self.worker.make(shard, kept, bar), bar.tokens


def _send(actor, numbered: tuple[int, Shard]):
    index, shard = numbered
    return actor.make.remote(index, shard, shard.bring(shard))


def _start_replica(ray, settings: Settings):
    options = {
        "num_cpus": 1,
        "num_gpus": settings.compute.gpus_per_replica,
        "max_restarts": RETRIES,
        "max_task_retries": RETRIES,
    }
    return ray.remote(Replica).options(**options).remote(settings, torch.get_num_threads())


def _connect(compute: Compute):
    """The package ray, connected; Complaint where that cannot be or the cluster lacks cards."""
    try:
        import ray
        import ray.util
    except ImportError as error:
        raise Complaint(
            "compute.engine is ray, which is not installed; run pip install 'fsgen[ray]'."
        ) from error
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    address = os.environ.get("RAY_ADDRESS")
    if address:
        _check_reachable(address)
    ray.init(address=address, include_dashboard=None if address else False, logging_level="warning")
    wanted, held = compute.replicas * compute.gpus_per_replica, ray.cluster_resources().get("GPU", 0)
    if wanted > held:
        ray.shutdown()
        raise Complaint(
            f"compute.replicas times gpus_per_replica should be at most the cluster's {held:.0f} cards, "
            f"got {wanted}; lower one of them."
        )
    return ray


def _check_reachable(address: str) -> None:
    """Complaint where nobody listens at host:port, so that Ray need not wait for minutes to say so."""
    host, _, port = address.rpartition("//")[2].rpartition(":")
    if not port.isdigit():
        return  # `auto` and `local`, which Ray resolves
    try:
        socket.create_connection((host, int(port)), timeout=PATIENCE).close()
    except OSError as error:
        raise Complaint(
            f"RAY_ADDRESS is '{address}', but nothing answers there ({error}); start the cluster's head or "
            "correct the address."
        ) from error
