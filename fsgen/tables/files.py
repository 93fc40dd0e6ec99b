"""Files and folders that appear whole or not at all, and the JSON files in metrics/."""

import contextlib
import json
import shutil
from collections.abc import Iterator
from pathlib import Path

from fsgen.errors import UserError, refuse_full_disk
from fsgen.tables.parquet import fingerprint

SCRATCH = Path("scratch")


def write_whole(path: Path, text: str) -> None:
    """Write a text file that appears whole or not at all; a file that stands there stays until then.

    UserError where the disk is full.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    try:
        part.write_text(text)
    except Exception as error:
        part.unlink(missing_ok=True)
        refuse_full_disk(error, str(path))
        raise
    part.replace(path)


def write_metrics(name: str, metrics: dict) -> Path:
    """Write metrics/<name>.json, which people read and DVC compares; ValueError on NaN and infinity."""
    path = Path("metrics") / f"{name}.json"
    write_whole(path, json.dumps(metrics, indent=2, allow_nan=False) + "\n")
    return path


def read_metrics(path: Path) -> dict:
    """What a metrics file holds; UserError where there is none."""
    if not path.is_file():
        raise UserError(f"There is no {path}; run 'dvc repro'.")
    return json.loads(path.read_text())


@contextlib.contextmanager
def atomic_folder(out: Path) -> Iterator[Path]:
    """A temporary folder that becomes `out` in one rename when the block ends without an error."""
    part = SCRATCH / "parts" / fingerprint({"out": str(out)})
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    out.parent.mkdir(parents=True, exist_ok=True)
    if part.stat().st_dev != out.parent.stat().st_dev:
        raise UserError(
            f"{SCRATCH}/ and {out.parent}/ are on different file systems, between which no folder can be "
            "renamed whole; put both on one."
        )
    yield part
    shutil.rmtree(out, ignore_errors=True)
    part.replace(out)
