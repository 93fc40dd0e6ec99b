"""CoF by pair over many token rows: SQL over the Parquet views, against Python over JSON lines."""

import contextlib
import json
import tempfile
import time
from collections import defaultdict
from pathlib import Path

import numpy as np
import polars as pl
from sidebyside import REPETITIONS, Case, Row, save

from fsgen.collaboration.fuse import FUSED
from fsgen.tables import lake, parquet

ROW = Row(
    what="CoF by pair over 20 M token rows in SQL",
    against="Python over JSON lines of the same rows",
    target=50,
    definition="CPU time of a loop of json.loads over CPU time of one query through `fused_tokens`, one "
    "DuckDB thread. The loop is timed on 200 k rows and scaled by the number of rows, which is exact for a "
    "loop; on those 200 k rows both give the same counts.",
)
PAIRS, ROWS_OF_PAIR, SAMPLE = 10, 2_000_000, 200_000
METHODS = ["oracle", "speculative", "contrastive_li2022", "contrastive_obrien2023", "average", "proxy"]
SQL = (
    "select pair, sum(mismatch::int), count(*) from fused_tokens "
    "where method = 'oracle' and writer = 'large' and in_answer group by pair order by pair"
)


def main() -> None:
    """Make the rows, time the loop on a sample and the query on all."""
    with tempfile.TemporaryDirectory() as home, contextlib.chdir(home):
        make_tables()
        ours, theirs = [], []
        for _ in range(REPETITIONS):
            seconds, counted = timed(lambda: ask(Path("sample")))
            seconds, looped = timed(loop)
            theirs.append(seconds * PAIRS * ROWS_OF_PAIR / SAMPLE)
            assert counted == looped, f"counts differ: {counted} {looped}"
            seconds, _ = timed(lambda: ask(Path("data")))
            ours.append(seconds)
        bytes_on_disk = sum(path.stat().st_size for path in Path("data").rglob("*.parquet"))
    sizes = {"rows": PAIRS * ROWS_OF_PAIR, "pairs": PAIRS, "rows of the loop": SAMPLE}
    sizes |= {"parquet bytes a row": bytes_on_disk / (PAIRS * ROWS_OF_PAIR)}
    save(Path(__file__).stem, ROW, {"synthetic rows": Case(ours, theirs, sizes)})


def timed(run) -> tuple[float, object]:
    """CPU seconds and result."""
    start = time.process_time()
    result = run()
    return time.process_time() - start, result


def make_tables() -> None:
    """Fused rows of every pair, and the first pair's first rows as a lake and as JSON lines."""
    for position in range(PAIRS):
        frame = make_rows(ROWS_OF_PAIR, position)
        parquet.write(Path(f"data/fused/pair-{position}/toy/fused-0000.parquet"), frame, FUSED)
        if position == 0:
            few = frame.sample(SAMPLE, seed=0)
            parquet.write(Path("sample/fused/pair-0/toy/fused-0000.parquet"), few, FUSED)
            few.insert_column(0, pl.lit("pair-0").alias("pair")).write_ndjson("sample/rows.jsonl")


def make_rows(count: int, seed: int) -> pl.DataFrame:
    """Rows of one pair: methods after each other, texts of 200 tokens, ids as skewed as words are."""
    chance = np.random.default_rng(seed)
    each = count // len(METHODS) + 1
    row = np.arange(count)
    position, pos = np.divmod(row % each, 200)
    default = (chance.zipf(1.3, count) % 151_665).astype(np.int32)
    mismatch = chance.random(count) < 0.1 + 0.01 * seed
    fused = np.where(mismatch, default + 1, default).astype(np.int32)
    speculative = row // each == 1
    accept = np.where(speculative, chance.random(count), np.nan).astype(np.float32)
    return pl.DataFrame(
        {
            "method": np.array(METHODS)[row // each],
            "writer": np.where(row // 200 % 3 == 0, "small", "large"),
            "prompt_id": np.char.add("toy-test-", np.arange(each // 200 + 1).astype(str))[position],
            "turn": np.ones(count, np.int32),
            "pos": pos.astype(np.int32),
            "in_answer": pos < 190,
            "default_id": default,
            "small_id": default,
            "fused_id": fused,
            "mismatch": mismatch,
            "certified": chance.random(count) < 0.99,
            "acceptance_low": pl.Series(accept).fill_nan(None),
            "acceptance_high": pl.Series(accept).fill_nan(None),
        }
    )


def ask(data: Path) -> dict[str, tuple[int, int]]:
    """Mismatches and tokens of every pair, by SQL."""
    connection = lake.connect(data)
    connection.execute("set threads to 1")
    return {pair: (int(m), tokens) for pair, m, tokens in connection.execute(SQL).fetchall()}


def loop() -> dict[str, tuple[int, int]]:
    """The same from JSON lines."""
    counts: dict[str, list[int]] = defaultdict(lambda: [0, 0])
    with open("sample/rows.jsonl") as lines:
        for line in lines:
            row = json.loads(line)
            if row["method"] == "oracle" and row["writer"] == "large" and row["in_answer"]:
                counts[row["pair"]][0] += row["mismatch"]
                counts[row["pair"]][1] += 1
    return {pair: tuple(count) for pair, count in counts.items()}


if __name__ == "__main__":
    main()
