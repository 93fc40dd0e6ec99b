"""Rewrite the tables in README.md from results/: `python benchmarks/table.py`."""

import json
from pathlib import Path

HERE = Path(__file__).parent
MARKS = "<!-- {}: start -->", "<!-- {}: end -->"
NAMES = (
    "read_vs_forward",
    "read_vs_loop",
    "write_vs_generate",
    "oracle_cof",
    "rollout_sharing",
    "parquet_vs_json",
    "sql_vs_json",
    "noop_repro",
    "lake_at_size",
    "rehearsal",
)
HEAD = "| script | what | against | promised | measured | reached | note |\n|---|---|---|---|---|---|---|"


def main() -> None:
    """Put both tables between the README's markers."""
    readme = HERE / "README.md"
    text = replace_table(readme.read_text(), "table", render())
    readme.write_text(replace_table(text, "coverage", render_coverage()))


def replace_table(text: str, name: str, table: str) -> str:
    """The text with what stands between the markers of that name replaced."""
    start, end = (mark.format(name) for mark in MARKS)
    before, rest = text.split(start)
    _, after = rest.split(end)
    return f"{before}{start}\n{table}\n{end}{after}"


def render() -> str:
    """The table, one line a script in the order of NAMES; a script without a result is `not run`."""
    return "\n".join([HEAD, *map(line, NAMES)])


def render_coverage() -> str:
    """A line a kind of interval: nominal coverage, and what was measured at each size."""
    paths = sorted((HERE / "results" / "coverage").glob("*.json"))
    rows = [row for path in paths for row in json.loads(path.read_text())]
    lines = []
    for kind in dict.fromkeys(row["kind"] for row in rows):
        subset = [row for row in rows if row["kind"] == kind]
        measured = ", ".join(f"{percent(row['measured'])} at {row['size']} {row['unit']}" for row in subset)
        lines.append(f"| {kind} | {percent(subset[0]['nominal'])} | {measured} | {subset[0]['replicates']} |")
    return "\n".join(["| interval | nominal, % | measured, % | samples |", "|---|---|---|---|", *lines])


def percent(share: float | None) -> str:
    """With one decimal; an interval that is not given at some size covers nothing there."""
    return "not given" if share is None else f"{100 * share:.1f}"


def line(name: str) -> str:
    """The table's line of one script."""
    path = HERE / "results" / f"{name}.json"
    if not path.is_file():
        return f"| `{name}` | | | | not run | | |"
    reported = json.loads(path.read_text())
    promises = {reported["unit"]: reported, **reported.get("also", {})}
    promised = ", ".join(f"{p['bound']} {p['target']:g} {unit}" for unit, p in promises.items())
    measured = ", ".join(f"{p['measured']:.3g} {unit}" for unit, p in promises.items())
    cells = (
        f"`{name}`",
        reported["what"],
        reported["against"],
        promised,
        measured,
        "yes" if reported["reached"] else "no",
    )
    return f"| {' | '.join(cells)} | {note(reported)} |"


def note(reported: dict) -> str:
    """What the figure rests on: every case's ratio, and single figures that stand beside it."""
    cases = [f"{case}: {entry['ratio']:.3g}" for case, entry in reported.get("cases", {}).items()]
    beside = [f"{k}: {v:.3g}" for k, v in reported.get("beside", {}).items() if isinstance(v, int | float)]
    return "; ".join(cases + beside)


if __name__ == "__main__":
    main()
