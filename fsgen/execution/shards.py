"""Shards: pieces of a stage's output that survive a kill and that later runs reuse.

A shard's life:

1. Its fingerprint is a digest of all that determines its bytes. It names a folder under scratch/shards/.
2. `run_shards` looks for that folder, here and in the remote cache. A shard that is there is not made.
3. An executor makes the tables of a missing shard. They are written to a temporary folder, which is then
   renamed, so that a folder named by a fingerprint is always whole.
4. The files of all shards are linked into the stage's output folder, numbered by shard.

A shard made of parts (policies) lists them in a manifest under scratch/manifests/, so that a later shard that
needs more parts reuses these: see `find_reusable`.
"""

import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from fsgen.config.schema import ComputeConfig
from fsgen.execution import console, remote
from fsgen.execution.memory import MemoryBudget
from fsgen.tables import files, parquet

Tables = dict[str, pa.Table]
"""A shard's tables by name."""


class Named(Protocol):
    """A model as a shard knows it; the loader knows the rest."""

    @property
    def name(self) -> str:
        """Its key in params.yaml."""
        ...


Loader = Callable[[ComputeConfig, Any], Any]
"""Brings a described model into memory, on the device and in the precision of `compute`."""


class BatchLimit(NamedTuple):
    """How much a pass may hold at first; it is halved if memory runs out."""

    size: int
    unit: str
    """Of what, for the message about memory."""


class ShardContext(NamedTuple):
    """What `Shard.make` is given."""

    loaded: dict[str, Any]
    """Role to its model in memory."""
    budget: MemoryBudget
    bar: Any
    """Progress, of which `advance` is called."""
    prefetched: Any
    """What `Shard.prefetch` returned."""


class Shard(NamedTuple):
    """A piece of a stage's output: what determines its bytes, and how to make its tables."""

    fingerprint_facts: dict
    """What determines its bytes, apart from its parts."""
    models: Mapping[str, Named]
    """Role to model, of all that must be in memory to make it."""
    limit: BatchLimit
    make: Callable[[ShardContext], Tables]
    texts: int
    """Texts in it, for the progress bar."""
    parts: Mapping[str, list] = {}
    """Name to facts of parts that other shards of the same `fingerprint_facts` may hold too."""
    prefetch: Callable[["Shard"], Any] = lambda shard: None
    """Reads what `make` needs from scratch. It runs in the stage's process; a worker may have no scratch."""

    @property
    def home(self) -> Path:
        """The folder of the finished shard."""
        parts = {"parts": self.parts} if self.parts else {}
        return _home(parquet.fingerprint(self.fingerprint_facts | parts))

    @property
    def manifest(self) -> Path:
        """The file that lists the parts of the finished shard."""
        return _manifest_folder(self.fingerprint_facts) / f"{self.home.name}.json"


Executor = Callable[[list[Shard], Any], Iterator[tuple[Shard, Tables]]]
"""Makes the tables of shards, in any order, and advances a progress bar; see executors.py."""


def chunk_prompts(prompts: pl.DataFrame, size: int) -> list[pl.DataFrame]:
    """The prompts in their order, `size` to a shard; the last may hold fewer."""
    return [prompts[start : start + size] for start in range(0, len(prompts), size)]


def run_shards(folder: Path, shards: list[Shard], executor: Executor, bar) -> int:
    """Make the shards that scratch lacks, and link all of them into `folder`; returns how many were made.

    Table t of shard i becomes `t-<i>.parquet`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    missing = {shard.home: shard for shard in shards if not _is_finished(shard.home)}
    bar.advance(sum(shard.texts for shard in shards if shard.home not in missing))
    _write_each(executor([*missing.values()], bar))
    for index, shard in enumerate(shards):
        for path in sorted(shard.home.glob("*.parquet")):
            # a link takes no space, and the output stays whole when scratch is emptied
            os.link(path, folder / f"{path.stem}-{index:04d}.parquet")
    return len(missing)


def _write_each(made: Iterator[tuple[Shard, Tables]]) -> None:
    """Write every shard while the next one is made; two at most are in memory."""
    with ThreadPoolExecutor(max_workers=1) as writer:
        writing: Future | None = None
        for shard, tables in made:
            if writing:
                writing.result()
            writing = writer.submit(_write_shard, shard, tables)
        if writing:
            writing.result()


def _is_finished(home: Path) -> bool:
    """Whether a finished shard is here, perhaps fetched from the remote cache; warns of a damaged one."""
    for path in home.glob("*.parquet"):
        try:
            pq.ParquetFile(path).close()
        except (pa.ArrowInvalid, OSError):
            console.warn(f"{path} is not a whole Parquet file; making its shard again")
            shutil.rmtree(home)
            break
    return home.exists() or remote.fetch_shard(home)


class ReusableShard(NamedTuple):
    """A finished shard that holds some of the wanted parts."""

    home: Path
    parts: list[str]


def find_reusable(shard: Shard) -> ReusableShard | None:
    """The finished shard of the same facts that holds most parts of this one; None if none holds any."""
    folder = _manifest_folder(shard.fingerprint_facts)
    remote.fetch_manifests(folder)
    wanted = _part_digests(shard.parts)
    candidates = [_read_manifest(path, wanted) for path in sorted(folder.glob("*.json"))]
    candidates.sort(key=lambda candidate: -len(candidate.parts))
    return next((each for each in candidates if each.parts and _is_finished(each.home)), None)


def _read_manifest(path: Path, wanted: dict[str, str]) -> ReusableShard:
    """The shard that a manifest belongs to, with those of its parts that are wanted."""
    digests = json.loads(path.read_text())
    return ReusableShard(_home(path.stem), [name for name in wanted if digests.get(name) == wanted[name]])


def _part_digests(parts: Mapping[str, list]) -> dict[str, str]:
    return {name: parquet.fingerprint({"part": facts}) for name, facts in parts.items()}


def _home(fingerprint: str) -> Path:
    return files.SCRATCH / "shards" / fingerprint


def _manifest_folder(fingerprint_facts: dict) -> Path:
    """Folder of the manifests of all shards with the same facts."""
    return files.SCRATCH / "manifests" / parquet.fingerprint(fingerprint_facts)


def _write_shard(shard: Shard, tables: Tables) -> None:
    home = shard.home
    part = home.with_name(home.name + ".part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    for name, table in tables.items():
        parquet.write(part / f"{name}.parquet", table, table.schema)
    part.replace(home)  # a folder of this name is finished: a kill leaves only the .part
    remote.store_shard(home)
    if shard.parts:  # after a kill before this line, the parts are not reused
        files.write_whole(shard.manifest, json.dumps(_part_digests(shard.parts)))
        remote.store_manifest(shard.manifest)


class Worker:
    """Makes shards in one process; models stay in memory until a shard needs others."""

    def __init__(self, compute: ComputeConfig, load: Loader):
        self._compute, self._load = compute, load
        self._loaded: dict[str, Any] = {}
        self._budgets: dict[str, MemoryBudget] = {}

    def make(self, shard: Shard, prefetched: Any, bar) -> Tables:
        """The shard's tables; `prefetched` is what its `prefetch` returned in the stage's process."""
        size, unit = shard.limit
        budget = self._budgets.setdefault(unit, MemoryBudget(size, unit))
        return shard.make(ShardContext(self._load_models(shard.models), budget, bar, prefetched))

    def _load_models(self, models: Mapping[str, Named]) -> dict[str, Any]:
        names = {role: model.name for role, model in models.items()}
        if names != {role: model.name for role, model in self._loaded.items()}:
            self._loaded = {}  # frees memory before others are loaded
            self._loaded = {role: self._load(self._compute, model) for role, model in models.items()}
        return self._loaded
