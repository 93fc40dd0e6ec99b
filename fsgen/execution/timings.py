"""What every attempt at a stage took: a small file under scratch/timings/, kept up to date while it runs.

A killed attempt leaves what it had come to, since its finished shards count in the next one.
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

KEPT = Path("scratch/timings")
PAUSE = 5.0  # seconds between two notes of a running attempt
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
    """One run of a stage, and the clock over it."""

    def __init__(self, stage: str, path: Path):
        self.path, self.tokens, self.noted = path, 0, float("-inf")
        self.told = {"stage": stage, "began": datetime.now(UTC).isoformat(timespec="seconds")}
        self.clock, self.cpu = time.perf_counter(), _cpu_seconds()

    def count(self, tokens: int) -> None:
        """Add positions that went through a model; written down every few seconds."""
        self.tokens += tokens
        if time.perf_counter() - self.noted > PAUSE:
            self.note("running")

    def note(self, state: str) -> None:
        """Write the file anew: running, done or failed."""
        self.noted = time.perf_counter()
        spent = {"wall_s": self.noted - self.clock, "cpu_s": _cpu_seconds() - self.cpu}
        part = self.path.with_suffix(".part")
        part.write_text(json.dumps(self.told | {"state": state, "tokens": self.tokens} | spent))
        part.replace(self.path)


@contextmanager
def timed(stage: str) -> Iterator[Attempt]:
    """Keep the time of what runs inside, and of the tokens that `count` is told of there."""
    KEPT.mkdir(parents=True, exist_ok=True)
    attempt = Attempt(stage, KEPT / f"{stage}-{time.time_ns()}.json")
    attempt.note("running")
    before = _current.set(attempt)
    try:
        yield attempt
    except BaseException:
        attempt.note("failed")
        raise
    finally:
        _current.reset(before)
    attempt.note("done")


def count(tokens: int) -> None:
    """Add positions that went through a model to the attempt that runs, if one is timed."""
    if attempt := _current.get():
        attempt.count(tokens)


def summarise(folder: Path = KEPT) -> pl.DataFrame:
    """Every stage that ran here, in the order of their first attempts, with the columns of `SUMMARY`.

    A stage that DVC skipped or took from its cache is not listed.
    """
    paths = sorted(folder.glob("*.json"), key=lambda path: int(path.stem.rpartition("-")[2]))  # nanoseconds
    if not paths:
        return pl.DataFrame(schema=SUMMARY)
    found = (
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
    return found.with_columns(tokens_per_s=rate).cast(SUMMARY)


def _cpu_seconds() -> float:
    """Of this process and of its children that have ended."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)
