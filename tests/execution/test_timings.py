"""What stages took is kept, also of those that failed or were killed."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from fsgen.execution import console, timings

STAGE = """
import sys, time
from fsgen.errors import UserError
from fsgen.execution import console

def main(pair: str) -> None:
    with console.progress(3, "texts", "writing") as bar:
        bar.advance(1, tokens=40)
        bar.advance(2, tokens=2)
    if pair == "refused":
        raise UserError("No such pair.")
    if pair == "endless":
        print("waiting", flush=True)
        time.sleep(600)

if __name__ == "__main__":
    console.run(main)
"""


@pytest.fixture
def stage(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(timings, "PAUSE", 0.0)
    Path("work.py").write_text(STAGE)
    return [sys.executable, "work.py", "--pair"]


@pytest.mark.long
def test_a_stage_leaves_its_time_and_its_tokens(stage):
    """Two attempts at one pair are one line; another pair is another."""
    for pair in ("a-b", "a-b", "c-d"):
        subprocess.run([*stage, pair], check=True, capture_output=True)
    result = timings.summarise()
    assert result["stage"].to_list() == ["work@a-b", "work@c-d"]
    assert result["attempts"].to_list() == [2, 1]
    assert result["tokens"].to_list() == [84, 42]
    assert result["unfinished"].to_list() == [0, 0]
    assert (result["wall_s"] > 0).all()
    assert (result["cpu_s"] > 0).all()


@pytest.mark.long
def test_failed_and_killed_attempts_count(stage):
    """A refusal is an attempt that ended; a killed stage leaves what it had last written down."""
    refused = subprocess.run([*stage, "refused"], capture_output=True, text=True)
    assert (refused.returncode, refused.stderr.splitlines()[-1]) == (1, "fsgen: No such pair.")
    with subprocess.Popen([*stage, "endless"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as endless:
        assert endless.stdout.readline() == b"waiting\n"
        os.kill(endless.pid, signal.SIGKILL)
    states = {t["stage"]: t["state"] for t in map(json.loads, _files())}
    assert states == {"work@refused": "failed", "work@endless": "running"}
    result = timings.summarise().rows_by_key("stage", named=True, unique=True)
    assert result["work@endless"]["unfinished"] == 1
    assert result["work@refused"]["unfinished"] == 0
    assert result["work@refused"]["tokens"] == 42


def _files() -> list[str]:
    return [path.read_text() for path in timings.KEPT.glob("*.json")]


def test_nothing_is_kept_where_nothing_is_timed(stage):
    """A bar outside a stage counts for itself alone, and no stage is an empty table."""
    with console.progress(1, "texts", "writing") as bar:
        bar.advance(1, tokens=7)
    result = timings.summarise()
    assert result.is_empty()
    assert result.schema == timings.SUMMARY


def test_rates_are_tokens_over_all_wall_time(tmp_path):
    """Closed form: 300 tokens in 10 + 20 s are 10 a second; a stage without models has no rate."""
    rows = [
        {"stage": "b", "began": "2", "state": "running", "tokens": 100, "wall_s": 10.0, "cpu_s": 8.0},
        {"stage": "b", "began": "3", "state": "done", "tokens": 200, "wall_s": 20.0, "cpu_s": 9.0},
        {"stage": "a", "began": "1", "state": "done", "tokens": 0, "wall_s": 4.0, "cpu_s": 4.0},
    ]
    for row in rows:
        (tmp_path / f"{row['stage']}-{row['began']}.json").write_text(json.dumps(row))
    a, b = timings.summarise(tmp_path).rows(named=True)
    assert (a["stage"], a["tokens_per_s"], b["tokens_per_s"]) == ("a", None, 10.0)
    assert (b["attempts"], b["unfinished"], b["wall_s"], b["cpu_s"]) == (2, 1, 30.0, 17.0)
