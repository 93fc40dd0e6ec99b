"""Whether the stages leave the same tokens and decisions on two kinds of device, in float32."""

from pathlib import Path
from typing import NamedTuple

import gpu_worlds
import polars as pl
from gpu_cases import pair_stages
from gpu_clock import seconds_of

FOLDERS = ("dumps", "teacher_forced", "fused", "routes", "rollouts")
LARGEST_SHOWN = 12


class Comparison(NamedTuple):
    """Two runs of one table, row by row."""

    rows: tuple[int, int]
    different: dict[str, int]
    """Column to rows that differ, of columns that hold decisions: integers, booleans and text."""
    lists_different: dict[str, int]
    """The same of lists of ids, whose order may follow the rounding of a logit."""
    largest: dict[str, float]
    """Column of numbers to the largest difference."""

    @property
    def is_equal(self) -> bool:
        """Whether the tables hold the same decisions."""
        return self.rows[0] == self.rows[1] and not self.different


def exactness_case(limit: int, device: str) -> dict:
    """Run all stages of the embedded pair on the CPU and on the device, and compare every table."""
    tables, seconds = {}, {}
    for side in ("cpu", device):
        with gpu_worlds.on_family(limit, side) as settings:
            stages = pair_stages(settings, "duo")
            seconds[side] = {name: seconds_of(stage, side)[0] for name, stage in stages.items()}
            tables[side] = _read_tables()
    compared = {name: compare(tables["cpu"][name], tables[device][name]) for name in tables["cpu"]}
    return {
        "equal": all(entry.is_equal for entry in compared.values()),
        "tokens": sum(entry.rows[0] for name, entry in compared.items() if name.endswith("/tokens")),
        "seconds": seconds,
        "tables": {name: entry._asdict() for name, entry in compared.items()},
    }


def _read_tables() -> dict[str, pl.DataFrame]:
    """Folder and kind to the rows of all its files, in their order."""
    result: dict[str, list[pl.DataFrame]] = {}
    for folder in FOLDERS:
        for path in sorted(Path("data", folder).rglob("*.parquet")):
            kind = path.stem.rstrip("0123456789").rstrip("-")
            result.setdefault(f"{path.parent.relative_to('data')}/{kind}", []).append(pl.read_parquet(path))
    return {name: pl.concat(frames) for name, frames in result.items()}


def compare(one: pl.DataFrame, other: pl.DataFrame) -> Comparison:
    """How two runs of one table differ; rows that only one of them has are not looked at."""
    rows = min(len(one), len(other))
    different, lists, largest = {}, {}, {}
    for name, kind in one.schema.items():
        mine, theirs = one[name].head(rows), other[name].head(rows)
        if kind.is_float():
            largest[name] = _largest_difference(mine, theirs)
        elif kind.is_nested():
            lists[name] = _count_different(mine, theirs) if kind == pl.List(pl.Int32) else 0
        else:
            different[name] = _count_different(mine, theirs)
    return Comparison(
        (len(one), len(other)),
        {name: count for name, count in different.items() if count},
        {name: count for name, count in lists.items() if count},
        largest,
    )


def _count_different(mine: pl.Series, theirs: pl.Series) -> int:
    return int(mine.ne_missing(theirs).sum())


def _largest_difference(mine: pl.Series, theirs: pl.Series) -> float:
    """Of finite numbers; infinity where one is finite and the other is not."""
    gap = (mine - theirs).abs().filter(mine.ne_missing(theirs))
    return 0.0 if gap.is_empty() else float(gap.fill_nan(float("inf")).fill_null(float("inf")).max())
