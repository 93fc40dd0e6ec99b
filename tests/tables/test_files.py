"""What is written is whole or absent, whenever the write breaks off, and rows are written in their order."""

import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest

from fsgen.errors import UserError
from fsgen.tables import files, parquet

BROKEN = """
import os, signal
from pathlib import Path
from fsgen.tables import files

honest = Path.write_text

def die_half_way(path, text, *rest):
    honest(path, text[: len(text) // 2])
    os.kill(os.getpid(), signal.SIGKILL)

Path.write_text = die_half_way
files.write_metrics("toy", {"accuracy": 0.75})
"""


@pytest.fixture(autouse=True)
def project_folder(tmp_path, monkeypatch):
    """Metrics are relative to the project's folder."""
    monkeypatch.chdir(tmp_path)


def test_a_kill_half_way_leaves_the_old_file():
    """The process dies with half of the new text on disk, under another name."""
    path = files.write_metrics("toy", {"accuracy": 0.5})
    before = path.read_bytes()

    environment = os.environ | {"PYTHONPATH": str(Path(files.__file__).parents[2])}
    done = subprocess.run([sys.executable, "-c", BROKEN], env=environment, check=False)

    assert done.returncode == -signal.SIGKILL
    assert path.read_bytes() == before
    files.write_metrics("toy", {"accuracy": 0.75})
    assert files.read_metrics(path) == {"accuracy": 0.75}
    assert os.listdir("metrics") == ["toy.json"]


def test_a_kill_half_way_through_the_first_write_leaves_no_file():
    """Nobody takes half a file for one."""
    environment = os.environ | {"PYTHONPATH": str(Path(files.__file__).parents[2])}
    subprocess.run([sys.executable, "-c", BROKEN], env=environment, check=False)

    assert not Path("metrics/toy.json").exists()


def test_an_error_while_writing_leaves_the_old_file_alone():
    """No part of the new one stays."""
    path = Path("notes/a.json")
    files.write_whole(path, "old")

    with pytest.raises(UnicodeEncodeError):
        files.write_whole(path, "new \udcff")

    assert path.read_text() == "old"
    assert os.listdir("notes") == ["a.json"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device without room")
def test_a_full_disk_is_one_sentence_and_leaves_the_old_file():
    """The file and the remedy are named."""
    path = Path("a.json")
    files.write_whole(path, "old")
    Path("a.json.part").symlink_to("/dev/full")

    with pytest.raises(UserError, match=r"^The disk is full \(a\.json\); free some space [^.]*\.$"):
        files.write_whole(path, "new")

    assert path.read_text() == "old"
    assert os.listdir() == ["a.json"]


def test_metrics_hold_no_nan():
    """JSON has none, and the old file stays."""
    path = files.write_metrics("toy", {"accuracy": 0.5})

    with pytest.raises(ValueError, match="not JSON compliant"):
        files.write_metrics("toy", {"accuracy": float("nan")})

    assert files.read_metrics(path) == {"accuracy": 0.5}


@pytest.mark.parametrize(
    ("rows", "is_sorted"),
    [
        ([], True),
        ([("a", 1, 0), ("a", 1, 1), ("a", 2, 2), ("b", 1, 0)], True),
        ([("a", 1, 1), ("a", 1, 0)], False),
        ([("a", 2, 0), ("a", 1, 1)], False),
        ([("b", 1, 0), ("a", 1, 0)], False),
        ([("a", 1, 0), ("a", 1, 0)], False),
    ],
)
def test_rows_out_of_order_are_refused(rows, is_sorted):
    """By prompt, turn and position, each of them once."""
    types = {"prompt_id": pl.String, "turn": pl.Int32, "pos": pl.Int32}
    table = pl.DataFrame(rows, schema=types, orient="row")
    refusal = contextlib.nullcontext() if is_sorted else pytest.raises(ValueError, match="of dumps are not")

    with refusal:
        parquet.check_key_order(table, "dumps")
