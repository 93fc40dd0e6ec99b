"""Shards: pieces of a stage's output that survive a kill, and that later runs take over.

A finished shard lies under scratch/ and bears the fingerprint of all that determines its bytes. One of
parts says which it holds, so that a shard that wants other ones too need not make those again.
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

from fsgen.config.schema import Settings
from fsgen.execution import console, remote
from fsgen.execution.memory import MemoryBudget
from fsgen.tables import files, parquet


class Named(Protocol):
    """A model as a shard knows it; what else it is matters to the one that loads it."""

    @property
    def name(self) -> str:
        """Its key of params.yaml."""
        ...


# Brings a described model into memory.
Loader = Callable[[Settings, Any], Any]


class ReusableShard(NamedTuple):
    """A finished shard that holds some wanted parts."""

    home: Path
    parts: list[str]


class ShardContext(NamedTuple):
    """What a shard is made with."""

    loaded: dict
    """Role to its model in memory."""
    budget: Any
    bar: Any
    kept: Any
    """What the shard's `bring` returned."""


class Shard(NamedTuple):
    """A piece of a stage's output: what determines its bytes, and how to make its tables."""

    facts: dict
    members: Mapping[str, Named]
    """Role to model, of all that must be in memory to make it."""
    limit: tuple[int, str]
    """How much a pass may hold at once, and of what."""
    make: Callable[[ShardContext], dict[str, pa.Table]]
    texts: int
    parts: Mapping[str, list] = {}
    """Name to facts of parts that other shards of the same `facts` may hold too; see `find_kin`."""
    bring: Callable[["Shard"], Any] = lambda shard: None
    """Fetches what `make` takes from scratch, which lies where the stage runs and not with every worker."""

    @property
    def home(self) -> Path:
        """Where it lies once it is finished."""
        parts = {"parts": self.parts} if self.parts else {}
        return _home(parquet.fingerprint(self.facts | parts))

    @property
    def note(self) -> Path:
        """Where it says which parts it holds."""
        return _manifest_folder(self.facts) / f"{self.home.name}.json"


# Makes the tables of shards, in any order, as an engine does; see fsgen.engines.
Executor = Callable[[list[Shard], Any], Iterator[tuple[Shard, dict[str, pa.Table]]]]


def chunk_prompts(prompts: pl.DataFrame, size: int) -> list[pl.DataFrame]:
    """The prompts in their order, `size` to a shard; the last may hold fewer."""
    return [prompts[start : start + size] for start in range(0, len(prompts), size)]


def run_shards(folder: Path, shards: list[Shard], crew: Executor, bar) -> int:
    """Have the crew make the shards that scratch lacks, link all into `folder`; returns how many were made.

    Shard i's table t becomes `t-<i>.parquet`. A shard lives in scratch under its fingerprint, so
    a killed stage makes only what is missing, and a larger `limit` adds to what is there. One
    shard is written while the next is made.
    """
    folder.mkdir(parents=True, exist_ok=True)
    missing = {shard.home: shard for shard in shards if not _is_whole(shard.home)}
    bar.advance(sum(shard.texts for shard in shards if shard.home not in missing))
    with ThreadPoolExecutor(max_workers=1) as writer:
        writing: Future | None = None
        for shard, tables in crew([*missing.values()], bar):
            if writing:
                writing.result()  # so that two shards at most are in memory
            writing = writer.submit(_write_shard, shard, tables)
        if writing:
            writing.result()
    for index, shard in enumerate(shards):
        for path in sorted(shard.home.glob("*.parquet")):
            os.link(path, folder / f"{path.stem}-{index:04d}.parquet")
    return len(missing)


def _is_whole(home: Path) -> bool:
    """Whether a finished shard stands there, or came from the depot; a damaged one is removed, saying so."""
    for path in home.glob("*.parquet"):
        try:
            pq.ParquetFile(path).close()
        except (pa.ArrowInvalid, OSError):
            console.warn(f"{path} is not a whole Parquet file; making its shard again")
            shutil.rmtree(home)
            break
    return home.exists() or remote.fetch_shard(home)


def find_reusable(shard: Shard) -> ReusableShard | None:
    """The finished shard of the same facts that holds the most of its parts; None where none holds any."""
    wanted, known = _digests(shard.parts), []
    remote.fetch_manifests(_manifest_folder(shard.facts))
    for note in sorted(_manifest_folder(shard.facts).glob("*.json")):
        held = json.loads(note.read_text())
        known.append(ReusableShard(_home(note.stem), [n for n in wanted if held.get(n) == wanted[n]]))
    whole = (
        kin for kin in sorted(known, key=lambda kin: -len(kin.parts)) if kin.parts and _is_whole(kin.home)
    )
    return next(whole, None)


def _digests(parts: Mapping[str, list]) -> dict[str, str]:
    return {name: parquet.fingerprint({"part": told}) for name, told in parts.items()}


def _home(name: str) -> Path:
    return files.SCRATCH / "shards" / name


def _manifest_folder(facts: dict) -> Path:
    """Folder of the notes that shards of the same facts leave."""
    return files.SCRATCH / "kin" / parquet.fingerprint(facts)


def _write_shard(shard: Shard, tables: dict[str, pa.Table]) -> None:
    home = shard.home
    part = home.with_name(home.name + ".part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    for name, table in tables.items():
        parquet.write(part / f"{name}.parquet", table, table.schema)
    part.replace(home)
    remote.store_shard(home)
    if shard.parts:
        _write_manifest(shard)


def _write_manifest(shard: Shard) -> None:
    """Say which parts a finished shard holds; a kill before this costs their reuse alone."""
    shard.note.parent.mkdir(parents=True, exist_ok=True)
    unfinished = shard.note.with_suffix(".part")
    unfinished.write_text(json.dumps(_digests(shard.parts)))
    unfinished.replace(shard.note)
    remote.store_manifest(shard.note)


class Worker:
    """Loads the models of the first shard, and others only for a shard that wants others."""

    def __init__(self, settings: Settings, load: Loader):
        self.settings, self.load = settings, load
        self._loaded: dict[str, Any] = {}
        self._budgets: dict[str, MemoryBudget] = {}

    def make(self, shard: Shard, kept: Any, bar) -> dict[str, pa.Table]:
        """The shard's tables; `kept` is what its `bring` returned where the stage runs."""
        size, unit = shard.limit
        budget = self._budgets.setdefault(unit, MemoryBudget(size, unit))
        return shard.make(ShardContext(self._load(shard), budget, bar, kept))

    def _load(self, shard: Shard) -> dict[str, Any]:
        wanted = {role: model.name for role, model in shard.members.items()}
        if wanted != {role: model.name for role, model in self._loaded.items()}:
            self._loaded = {}  # before others come
            self._loaded = {role: self.load(self.settings, m) for role, m in shard.members.items()}
        return self._loaded
