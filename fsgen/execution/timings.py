"""Times of stages: a small file under scratch/timings/ for every attempt, updated while it runs.

The file of a killed attempt stays, since its finished shards count in the next attempt.
"""

import json
import resource
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime
from pathlib import Path

import polars as pl

from fsgen.tables import files

KEPT = Path("scratch/timings")
PAUSE = 5.0  # seconds between two updates of a file
SUMMARY = {
    "stage": pl.String,  # with its model, pair or dataset, as DVC spells it
    "attempts": pl.Int64,
    "unfinished": pl.Int64,  # those that were killed, or still run
    "wall_s": pl.Float64,  # of all attempts
    "cpu_s": pl.Float64,  # of their processes and of finished children
    "tokens": pl.Int64,  # positions that models processed, prompts left out; 0 where no model runs
    "tokens_per_s": pl.Float64,  # of wall time, loading included; null where no model runs
}
_current: ContextVar["Attempt | None"] = ContextVar("attempt", default=None)


class Attempt:
    """One run of a stage and its clock."""

    def __init__(self, stage: str, path: Path):
        self.path, self.tokens, self.written_s = path, 0, float("-inf")
        self.label = {"stage": stage, "began": datetime.now(UTC).isoformat(timespec="seconds")}
        self.start_s, self.start_cpu_s = time.perf_counter(), _cpu_seconds()

    def count(self, tokens: int) -> None:
        """Add positions that went through a model; the file is updated every few seconds."""
        self.tokens += tokens
        if time.perf_counter() - self.written_s > PAUSE:
            self.write("running")

    def write(self, state: str) -> None:
        """Update the file; `state` is running, done or failed."""
        self.written_s = time.perf_counter()
        spent = {"wall_s": self.written_s - self.start_s, "cpu_s": _cpu_seconds() - self.start_cpu_s}
        row = self.label | {"state": state, "tokens": self.tokens} | spent
        files.write_whole(self.path, json.dumps(row))


@contextmanager
def timed(stage: str) -> Iterator[Attempt]:
    """Record the time of the block, and the tokens that `count` is called with inside."""
    attempt = Attempt(stage, KEPT / f"{stage}-{time.time_ns()}.json")
    attempt.write("running")
    token = _current.set(attempt)
    try:
        yield attempt
    except BaseException:
        attempt.write("failed")
        raise
    finally:
        _current.reset(token)
    attempt.write("done")


def count(tokens: int) -> None:
    """Add positions that went through a model to the running attempt, if there is one."""
    if attempt := _current.get():
        attempt.count(tokens)


def summarise(folder: Path = KEPT) -> pl.DataFrame:
    """One row for every stage that ran here, in the order of first attempts; columns of `SUMMARY`.

    A stage that DVC skipped or took from its cache has no row.
    """
    paths = sorted(folder.glob("*.json"), key=lambda path: int(path.stem.rpartition("-")[2]))  # nanoseconds
    if not paths:
        return pl.DataFrame(schema=SUMMARY)
    stages = (
        pl.DataFrame([json.loads(path.read_text()) for path in paths])
        .group_by("stage", maintain_order=True)
        .agg(
            attempts=pl.len(),
            unfinished=(pl.col("state") == "running").sum(),
            wall_s=pl.col("wall_s").sum(),
            cpu_s=pl.col("cpu_s").sum(),
            tokens=pl.col("tokens").sum(),
        )
    )
    rate = pl.when(pl.col("tokens") > 0).then(pl.col("tokens") / pl.col("wall_s"))
    return stages.with_columns(tokens_per_s=rate).cast(SUMMARY)


def _cpu_seconds() -> float:
    """CPU time of this process and of its children that have ended."""
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)
