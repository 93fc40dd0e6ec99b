"""The remote cache: finished shards on object storage, for machines without a common disk.

FSGEN_SCRATCH names it: s3://bucket/folder, another storage that fsspec knows, or a shared folder. A shard is
fetched from there before it is made, and stored there once it is finished. Object storage cannot rename a
folder, so a shard counts as whole once its list of files is there, which is stored last.
"""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import fsspec.core
from fsspec import AbstractFileSystem
from fsspec.implementations.local import LocalFileSystem

from fsgen.errors import UserError, refuse_full_disk
from fsgen.tables import files

INDEX = "whole.json"


def fetch_shard(home: Path) -> bool:
    """Whether the remote cache holds the finished shard; if so, it is at `home` afterwards."""
    if not (location := _locate(home)):
        return False
    storage, source = location
    listed = f"{source}/{INDEX}"
    if not _call(f"looking for {listed}", storage.exists, listed):
        return False
    part = home.with_name(home.name + ".part")
    shutil.rmtree(part, ignore_errors=True)
    for name in json.loads(_call(f"reading {listed}", storage.cat_file, listed)):
        _download(storage, f"{source}/{name}", part / name)
    part.replace(home)
    return True


def store_shard(home: Path) -> None:
    """Store a finished shard, if a remote cache is set."""
    if not (location := _locate(home)):
        return
    storage, target = location
    _make_folder(storage, target)
    names = sorted(path.name for path in home.glob("*.parquet"))
    for name in names:
        _call(f"writing {target}/{name}", storage.put_file, str(home / name), f"{target}/{name}")
    _call(f"writing {target}/{INDEX}", storage.pipe_file, f"{target}/{INDEX}", json.dumps(names).encode())


def fetch_manifests(folder: Path) -> None:
    """Fetch the manifests of this folder that scratch lacks."""
    if not (location := _locate(folder)):
        return
    storage, source = location
    for stored in _call(f"looking into {source}", storage.glob, f"{source}/*.json"):
        manifest = folder / Path(stored).name
        if not manifest.exists():
            _download(storage, stored, manifest.with_suffix(".part"))
            manifest.with_suffix(".part").replace(manifest)


def store_manifest(manifest: Path) -> None:
    """Store a manifest, if a remote cache is set."""
    if not (location := _locate(manifest)):
        return
    storage, target = location
    _make_folder(storage, target.rpartition("/")[0])
    _call(f"writing {target}", storage.put_file, str(manifest), target)


class _Place(NamedTuple):
    """Where the remote cache keeps a file or folder of scratch."""

    storage: AbstractFileSystem
    path: str


def _locate(path: Path) -> _Place | None:
    """The place of a path in scratch; None if no remote cache is set."""
    if not (url := os.environ.get("FSGEN_SCRATCH")):
        return None
    storage, root = _call("opening it", fsspec.core.url_to_fs, url)
    return _Place(storage, f"{root}/{path.relative_to(files.SCRATCH).as_posix()}")


def _make_folder(storage, target: str) -> None:
    """Make a folder on a disk; object storage needs none, and would create a bucket of a misspelled name."""
    if isinstance(storage, LocalFileSystem):
        _call(f"making {target}", storage.makedirs, target, exist_ok=True)


def _download(storage, source: str, here: Path) -> None:
    """Fetch a file into scratch; UserError if it cannot be read there or written here."""
    try:
        here.parent.mkdir(parents=True, exist_ok=True)
        here.open("wb").close()  # so that a later error is the remote cache's, or that of a full disk
    except OSError as error:
        refuse_full_disk(error, str(here))
        raise UserError(
            f"{files.SCRATCH}/ should take what FSGEN_SCRATCH holds, and writing {here} got "
            f"{type(error).__name__}: {error}; mend what the error names."
        ) from error
    _call(f"fetching {source} into {here}", storage.get_file, source, str(here))


def _call(doing: str, operation: Callable, *args, **options):
    """What the storage operation returns; UserError that says what was being done if it fails."""
    try:
        return operation(*args, **options)
    except Exception as error:  # every kind of storage has its own exceptions
        refuse_full_disk(error, doing)
        raise UserError(
            f"FSGEN_SCRATCH is '{os.environ['FSGEN_SCRATCH']}', which should be a folder that fsspec can "
            f"reach, and {doing} got {type(error).__name__}: {error}; correct the address, or mend what the "
            "error names."
        ) from error
