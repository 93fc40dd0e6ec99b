"""Two ways to do the same work, timed in turn in one process on one thread, and what came out as JSON."""

import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import one_thread  # noqa: F401 - before torch
import pyarrow as pa
import torch
import transformers

RESULTS = Path(__file__).parent / "results"
REPETITIONS = 3
torch.set_num_threads(1)
pa.set_cpu_count(1)
transformers.utils.logging.set_verbosity_error()
transformers.utils.logging.disable_progress_bar()


class Row(NamedTuple):
    """A row of the table: a promise, and the sentence that says what is counted."""

    what: str
    against: str
    target: float
    definition: str
    unit: str = "times"
    bound: str = "at least"


class Case(NamedTuple):
    """One side-by-side measurement: what each side spent in every repetition, and on what."""

    ours: list[float]
    theirs: list[float]
    sizes: dict
    spent: str = "CPU seconds"

    def reported(self) -> dict:
        """The case as JSON; `ratio` is how many times as much the other side spent."""
        ours, theirs = statistics.median(self.ours), statistics.median(self.theirs)
        return {
            "ratio": theirs / ours,
            "ours": ours,
            "theirs": theirs,
            "spent": self.spent,
            "repetitions": {"ours": self.ours, "theirs": self.theirs},
            "sizes": self.sizes,
        }


def alternate(ours: Callable, theirs: Callable, before: Callable = lambda: None) -> tuple:
    """CPU seconds of both sides, run in turn, and what each returned last.

    `before` clears what `ours` left; it is not timed.
    """
    seconds, last = {ours: [], theirs: []}, {}
    for _ in range(REPETITIONS):
        before()
        for side in (ours, theirs):
            start = time.process_time()
            last[side] = side()
            seconds[side].append(time.process_time() - start)
    return seconds[ours], seconds[theirs], last[ours], last[theirs]


def save(
    name: str, row: Row, cases: dict[str, Case], beside: dict | None = None, also: dict | None = None
) -> None:
    """Write results/<name>.json; the row's figure is its worst case.

    `beside`: figures that are reported and promise nothing. `also`: further promises, each with
    `measured`, `target` and `bound`.
    """
    reported = {case: entry.reported() for case, entry in cases.items()}
    measured = min(entry["ratio"] for entry in reported.values())
    write_result(name, row, measured, {"cases": reported, "beside": beside or {}, "also": also or {}})


def write_result(name: str, row: Row, measured: float, rest: dict) -> None:
    """Write results/<name>.json and say in one line what it holds."""
    promises = [{"measured": measured, "target": row.target, "bound": row.bound}]
    promises += rest.get("also", {}).values()
    reached = all(map(is_kept, promises))
    result = {"name": name, **row._asdict(), "measured": measured, "reached": reached, **rest}
    write_json(name, result)
    shown = ", ".join(f"{case} {entry['ratio']:.3g}" for case, entry in rest.get("cases", {}).items())
    print(f"{name}: {measured:.3g} {row.unit} ({row.bound} {row.target:g}; {shown})", flush=True)


def write_json(name: str, result: dict) -> None:
    """Write results/<name>.json, with the machine that it was seen on."""
    machine = {"cpu": cpu_model(), "threads": torch.get_num_threads(), "torch": torch.__version__}
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{name}.json").write_text(json.dumps(rounded(result | {"machine": machine}), indent=1) + "\n")


def is_kept(promise: dict) -> bool:
    """Whether a measured figure lies on the promised side of its target."""
    if promise["bound"] == "at least":
        return promise["measured"] >= promise["target"]
    return promise["measured"] <= promise["target"]


def rounded(value):
    """The value with every float at five significant digits; more would be noise."""
    if isinstance(value, dict):
        return {key: rounded(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [rounded(entry) for entry in value]
    return float(f"{value:.5g}") if isinstance(value, float) else value


def cpu_model() -> str:
    """The processor's name as the system tells it."""
    reported = Path("/proc/cpuinfo")
    lines = reported.read_text().splitlines() if reported.is_file() else []
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "unknown")
