"""Seconds and peak memory of every stage on CPUs and of every shipped query, on ever larger lakes.

Each runs as a process of its own and is measured from outside. This process imports next to nothing
until all are done: what a child has used at most includes what its parent held when it began.
"""

import argparse
import contextlib
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks/results"
PROMISE = {
    "what": "peak memory of fuse, route, evaluate, scaling, uncertainty or any query on the largest lake",
    "against": "the same on smaller lakes",
    "target": 8,
    "definition": "Largest resident set of any process (fuse and route of each pair, evaluate, scaling, "
    "uncertainty, every query of queries/), as the kernel counted it, on the largest lake measured. Its "
    "dumps are synthetic (benchmarks/synthetic.py): 3 models, 3 pairs, 10 policies and drafting; token "
    "rows are those of all tables with a row a token. Processes use all cores.",
    "unit": "GB",
    "bound": "at most",
}
SIZES = [1, 4, 16, 64, 100]
MILLION = 1_000_000
TABLES = (
    "generated_tokens",
    "teacher_forced",
    "fused_tokens",
    "simulated_tokens",
    "router_scores",
    "rollout_tokens",
)
PAIRS = ("small-middle", "small-large", "middle-large")
DATASET, TOKENS = "sums", 250
WRITTEN = 246  # of TOKENS, since the longest texts are cut
# all prompts: generated_tokens 3, teacher_forced 9, fused_tokens 27
# test prompts: simulated_tokens 30, router_scores 24, rollout_tokens 30
ROWS_A_TOKEN = 39 + 0.75 * 84


def main() -> None:
    """Measure lakes of so many million token rows: `python benchmarks/lake_at_size.py --rows 1 4`."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--rows", type=float, nargs="+", default=SIZES, help="millions")
    parser.add_argument("--home", type=Path, help="keep the lakes, in folders of this one")
    parser.add_argument("--count", type=Path, help="count the lake in this folder and do nothing else")
    requested = parser.parse_args()
    if requested.count:
        print(json.dumps(count(requested.count)))
        return
    tell([measure_lake(millions, requested.home) for millions in sorted(requested.rows)])


def measure_lake(millions: float, home: Path | None) -> dict:
    """Make a lake, run everything on it and say what each process took."""
    prompts = max(8, round(millions * MILLION / ROWS_A_TOKEN / WRITTEN))
    with lake_folder(home, f"{millions:g}m") as folder:
        maker = [ROOT / "benchmarks/synthetic.py", folder, "--prompts", prompts, "--tokens", TOKENS]
        made = measure("synthetic", maker, folder)
        processes = {name: measure(name, command, folder) for name, command in list_processes()}
        counted = subprocess.run(
            [sys.executable, __file__, "--count", folder], check=True, stdout=subprocess.PIPE
        )
    return {"prompts": prompts, **json.loads(counted.stdout), "generator": made, "processes": processes}


@contextlib.contextmanager
def lake_folder(home: Path | None, name: str) -> Iterator[Path]:
    """A folder that stays, or one that goes."""
    if home is None:
        with tempfile.TemporaryDirectory() as folder:
            yield Path(folder)
    else:
        folder = home.resolve() / name
        folder.mkdir(parents=True)  # into an empty one, or shards of a larger lake would stay
        yield folder


def list_processes() -> Iterator[tuple[str, list]]:
    """Name and command of everything that is measured, in the pipeline's order."""
    for stage in ("fuse", "route"):
        for pair in PAIRS:
            yield f"{stage} {pair}", [ROOT / f"stages/{stage}.py", "--pair", pair]
    yield "evaluate", [ROOT / "stages/evaluate.py", "--dataset", DATASET]
    for stage in ("scaling", "uncertainty"):
        yield stage, [ROOT / f"stages/{stage}.py"]
    for path in sorted((ROOT / "queries").glob("*.sql")):
        yield f"query {path.stem}", ["-m", "fsgen.cli", "sql", path, "--format", "json"]
    shown = re.findall(r'^fsgen sql "(.+?)"', (ROOT / "README.md").read_text(), re.MULTILINE)
    for number, sql in enumerate(shown, 1):
        yield f"query {number} of the README", ["-m", "fsgen.cli", "sql", sql, "--format", "json"]


def measure(name: str, command: list, folder: Path) -> dict:
    """Wall and CPU seconds and peak memory of one Python process in this folder; all ends if it fails."""
    paths = os.pathsep.join(map(str, (ROOT, ROOT / "benchmarks")))
    start = time.perf_counter()
    child = subprocess.Popen(
        [sys.executable, *map(str, command)],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": paths},
        stdout=subprocess.DEVNULL,
    )
    _, status, used = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    seconds, peak_gb = time.perf_counter() - start, used.ru_maxrss * 1024 / 1e9
    if child.returncode:
        raise SystemExit(f"{name} ended with {child.returncode} at {peak_gb:.2f} GB")
    reported = {
        "seconds": seconds,
        "cpu_seconds": used.ru_utime + used.ru_stime,
        "peak_gb": peak_gb,
    }
    print(f"{name}: " + ", ".join(f"{key} {value:.3g}" for key, value in reported.items()), flush=True)
    return reported


def count(folder: Path) -> dict:
    """Rows of every table with a row a token, by the files' own account, and bytes of all tables."""
    import pyarrow.parquet as pq

    from fsgen.tables.views import VIEWS

    data = folder / "data"
    paths = {name: data.glob(VIEWS[name].pattern) for name in TABLES}
    rows = {name: sum(pq.read_metadata(path).num_rows for path in subset) for name, subset in paths.items()}
    size = sum(path.stat().st_size for path in data.rglob("*.parquet"))
    return {"rows": sum(rows.values()), "rows_of": rows, "bytes": size}


def tell(lakes: list[dict]) -> None:
    """Write results/lake_at_size.json and its curve."""
    from sidebyside import Row, write_result  # torch with it, and one thread for all that starts after

    last = lakes[-1]
    peaks = {name: reported["peak_gb"] for name, reported in last["processes"].items()}
    seconds = sum(reported["seconds"] for reported in last["processes"].values())
    made = sum(last["rows_of"][name] for name in ("generated_tokens", "teacher_forced", "rollout_tokens"))
    beside = {
        "token rows": last["rows"],
        "cores": os.cpu_count(),
        "seconds of all together": seconds,
        "dumped rows made a CPU second": made / last["generator"]["cpu_seconds"],
    }
    rest = {"highest": max(peaks, key=peaks.get), "beside": beside, "lakes": lakes}
    write_result(Path(__file__).stem, Row(**PROMISE), max(peaks.values()), rest)
    draw(lakes, RESULTS / f"{Path(__file__).stem}.svg")


def draw(lakes: list[dict], path: Path) -> None:
    """CPU seconds and peak memory against token rows, a line a stage: its slowest pair, the worst query."""
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot

    matplotlib.rcParams["svg.hashsalt"] = path.stem
    figure, sides = pyplot.subplots(1, 2, figsize=(10, 4), layout="constrained")
    rows = [lake["rows"] for lake in lakes]
    labels = {"cpu_seconds": "CPU seconds", "peak_gb": "peak memory, GB"}
    for axes, (key, label) in zip(sides, labels.items(), strict=True):
        for stage in dict.fromkeys(name.split()[0] for name in lakes[0]["processes"]):
            axes.plot(rows, [worst(lake, stage, key) for lake in lakes], marker="o", label=stage)
        axes.set(xscale="log", yscale="log", xlabel="token rows", ylabel=label)
        axes.grid(alpha=0.3)
    sides[1].axhline(PROMISE["target"], color="black", linestyle="--", label="promised at 100 M")
    sides[0].legend()
    sides[1].legend()
    figure.savefig(path, metadata={"Date": None})


def worst(lake: dict, stage: str, key: str) -> float:
    """The largest figure of a stage's processes."""
    return max(reported[key] for name, reported in lake["processes"].items() if name.split()[0] == stage)


if __name__ == "__main__":
    main()
