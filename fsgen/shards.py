"""Shards: pieces of a stage's output that survive a kill, and that later runs take over.

A finished shard lies under scratch/ and bears the fingerprint of all that determines its bytes. One of
parts says which it holds, so that a shard that wants other ones too need not make those again.
"""

import json
import os
import shutil
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from fsgen import console, store


class Shard(NamedTuple):
    """A piece of a stage's output: what determines its bytes, and how to make its tables."""

    facts: dict
    make: Callable[[], dict[str, pa.Table]]
    texts: int
    parts: Mapping[str, list] = {}
    """Name to facts of parts that other shards of the same `facts` may hold too; see `find_kin`."""

    @property
    def home(self) -> Path:
        """Where it lies once it is finished."""
        parts = {"parts": self.parts} if self.parts else {}
        return _home(store.fingerprint(self.facts | parts))

    @property
    def note(self) -> Path:
        """Where it says which parts it holds."""
        return _kin(self.facts) / f"{self.home.name}.json"


def finish_shards(folder: Path, shards: list[Shard], bar) -> int:
    """Make the shards that scratch lacks and link all of them into `folder`; returns how many were made.

    Shard i's table t becomes `t-<i>.parquet`. A shard lives in scratch under its fingerprint, so
    a killed stage makes only what is missing, and a larger `limit` adds to what is there. One
    shard is written while the next is made.
    """
    folder.mkdir(parents=True, exist_ok=True)
    homes = [shard.home for shard in shards]
    made = 0
    with ThreadPoolExecutor(max_workers=1) as writer:
        writing: Future | None = None
        for home, shard in zip(homes, shards, strict=True):
            if _is_whole(home):
                bar.advance(shard.texts)
                continue
            tables = shard.make()
            if writing:
                writing.result()  # so that two shards at most are in memory
            writing = writer.submit(_write_shard, shard, tables)
            made += 1
        if writing:
            writing.result()
    for index, home in enumerate(homes):
        for path in sorted(home.glob("*.parquet")):
            os.link(path, folder / f"{path.stem}-{index:04d}.parquet")
    return made


def _is_whole(home: Path) -> bool:
    """Whether a finished shard stands there; one with a damaged file is removed, saying so."""
    for path in home.glob("*.parquet"):
        try:
            pq.ParquetFile(path).close()
        except (pa.ArrowInvalid, OSError):
            console.warn(f"{path} is not a whole Parquet file; making its shard again")
            shutil.rmtree(home)
            return False
    return home.exists()


class Kin(NamedTuple):
    """A finished shard that holds some wanted parts."""

    home: Path
    parts: list[str]


def find_kin(facts: dict, parts: Mapping[str, list]) -> Kin | None:
    """The finished shard of the same facts that holds the most of these parts; None where none holds any."""
    wanted, known = _digests(parts), []
    for note in sorted(_kin(facts).glob("*.json")):
        held = json.loads(note.read_text())
        known.append(Kin(_home(note.stem), [n for n in wanted if held.get(n) == wanted[n]]))
    whole = (
        kin for kin in sorted(known, key=lambda kin: -len(kin.parts)) if kin.parts and _is_whole(kin.home)
    )
    return next(whole, None)


def _digests(parts: Mapping[str, list]) -> dict[str, str]:
    return {name: store.fingerprint({"part": told}) for name, told in parts.items()}


def _home(name: str) -> Path:
    return store.SCRATCH / "shards" / name


def _kin(facts: dict) -> Path:
    """Folder of the notes that shards of the same facts leave."""
    return store.SCRATCH / "kin" / store.fingerprint(facts)


def _write_shard(shard: Shard, tables: dict[str, pa.Table]) -> None:
    home = shard.home
    part = home.with_name(home.name + ".part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    for name, table in tables.items():
        store.write(part / f"{name}.parquet", table, table.schema)
    part.replace(home)
    if shard.parts:
        _note_parts(shard)


def _note_parts(shard: Shard) -> None:
    """Say which parts a finished shard holds; a kill before this costs their reuse alone."""
    shard.note.parent.mkdir(parents=True, exist_ok=True)
    unfinished = shard.note.with_suffix(".part")
    unfinished.write_text(json.dumps(_digests(shard.parts)))
    unfinished.replace(shard.note)
