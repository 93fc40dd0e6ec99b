"""Rewrite the table in README.md from results/*.json: `python benchmarks/table.py`."""

import json
from pathlib import Path

HERE = Path(__file__).parent
START, END = "<!-- table: start -->", "<!-- table: end -->"
NAMES = (
    "read_vs_forward",
    "read_vs_loop",
    "write_vs_generate",
    "oracle_cof",
    "rollout_sharing",
    "parquet_vs_json",
    "sql_vs_json",
    "noop_repro",
)
HEAD = "| script | what | against | promised | measured | reached | note |\n|---|---|---|---|---|---|---|"


def main() -> None:
    """Put the table of the results between the README's markers."""
    readme = HERE / "README.md"
    readme.write_text(replace_table(readme.read_text(), render()))


def replace_table(text: str, table: str) -> str:
    """The text with what stands between the markers replaced."""
    before, rest = text.split(START)
    _, after = rest.split(END)
    return f"{before}{START}\n{table}\n{END}{after}"


def render() -> str:
    """The table, one line a script in the order of NAMES; a script without a result is `not run`."""
    return "\n".join([HEAD, *map(line, NAMES)])


def line(name: str) -> str:
    """The table's line of one script."""
    path = HERE / "results" / f"{name}.json"
    if not path.is_file():
        return f"| `{name}` | | | | not run | | |"
    told = json.loads(path.read_text())
    promises = {told["unit"]: told, **told.get("also", {})}
    promised = ", ".join(f"{p['bound']} {p['target']:g} {unit}" for unit, p in promises.items())
    measured = ", ".join(f"{p['measured']:.3g} {unit}" for unit, p in promises.items())
    cells = (
        f"`{name}`",
        told["what"],
        told["against"],
        promised,
        measured,
        "yes" if told["reached"] else "no",
    )
    return f"| {' | '.join(cells)} | {note(told)} |"


def note(told: dict) -> str:
    """What the figure rests on: every case's ratio, and single figures that stand beside it."""
    cases = [f"{case}: {entry['ratio']:.3g}" for case, entry in told.get("cases", {}).items()]
    beside = [f"{k}: {v:.3g}" for k, v in told.get("beside", {}).items() if isinstance(v, int | float)]
    return "; ".join(cases + beside)


if __name__ == "__main__":
    main()
