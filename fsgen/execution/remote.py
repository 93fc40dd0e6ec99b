"""The depot: finished shards on object storage, for machines that have no disk in common.

FSGEN_SCRATCH names it: s3://bucket/folder, or the like of any storage that fsspec knows, or a shared folder.
A shard is fetched from there before it is made, and put there once it is finished. Object storage renames no
folders, so a shard counts as whole once its list of files is there, which is put last.
"""

import json
import os
import shutil
from pathlib import Path

import fsspec.core
from fsspec.implementations.local import LocalFileSystem

from fsgen.errors import UserError, refuse_full_disk
from fsgen.tables import files

INDEX = "whole.json"


def fetch_shard(home: Path) -> bool:
    """Whether the depot holds the finished shard, which then lies at `home` too."""
    if not (place := _locate(home)):
        return False
    storage, source = place
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
    """Put a finished shard into the depot, if there is one."""
    if not (place := _locate(home)):
        return
    storage, target = place
    _make_folder(storage, target)
    names = sorted(path.name for path in home.glob("*.parquet"))
    for name in names:
        _call(f"writing {target}/{name}", storage.put_file, str(home / name), f"{target}/{name}")
    _call(f"writing {target}/{INDEX}", storage.pipe_file, f"{target}/{INDEX}", json.dumps(names).encode())


def fetch_manifests(folder: Path) -> None:
    """Fetch the notes that the depot holds for this folder of notes and scratch does not."""
    if not (place := _locate(folder)):
        return
    storage, source = place
    for found in _call(f"looking into {source}", storage.glob, f"{source}/*.json"):
        note = folder / Path(found).name
        if not note.exists():
            _download(storage, found, note.with_suffix(".part"))
            note.with_suffix(".part").replace(note)


def store_manifest(note: Path) -> None:
    """Put a note into the depot, if there is one."""
    if not (place := _locate(note)):
        return
    storage, target = place
    _make_folder(storage, target.rpartition("/")[0])
    _call(f"writing {target}", storage.put_file, str(note), target)


def _locate(path: Path) -> tuple | None:
    """The depot's file system and what stands there for a path in scratch; None without a depot."""
    if not (url := os.environ.get("FSGEN_SCRATCH")):
        return None
    storage, root = _call("opening it", fsspec.core.url_to_fs, url)
    return storage, f"{root}/{path.relative_to(files.SCRATCH).as_posix()}"


def _make_folder(storage, target: str) -> None:
    """Object storage needs none, and would make a bucket of a misspelt name."""
    if isinstance(storage, LocalFileSystem):
        _call(f"making {target}", storage.makedirs, target, exist_ok=True)


def _download(storage, source: str, here: Path) -> None:
    """Fetch a file into scratch; Complaint where the depot does not give it or this disk does not take it."""
    try:
        here.parent.mkdir(parents=True, exist_ok=True)
        here.open("wb").close()  # so that what fails from here on is no fault of scratch, or a full disk
    except OSError as error:
        refuse_full_disk(error, str(here))
        raise UserError(
            f"{files.SCRATCH}/ should take what FSGEN_SCRATCH holds, and writing {here} got "
            f"{type(error).__name__}: {error}; mend what the error names."
        ) from error
    _call(f"fetching {source} into {here}", storage.get_file, source, str(here))


def _call(doing: str, question, *args, **options):
    """What the storage answers; Complaint that says what was being done where it does not."""
    try:
        return question(*args, **options)
    except Exception as error:  # every kind of storage has errors of its own
        refuse_full_disk(error, doing)
        raise UserError(
            f"FSGEN_SCRATCH is '{os.environ['FSGEN_SCRATCH']}', which should be a folder that fsspec can "
            f"reach, and {doing} got {type(error).__name__}: {error}; correct the address, or mend what the "
            "error names."
        ) from error
