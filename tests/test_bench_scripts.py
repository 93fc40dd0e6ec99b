"""Benchmarks: what their results hold, and that the README's table is made of them."""

import importlib.util
import json
from pathlib import Path

import pytest

HERE = Path(__file__).parent.parent / "benchmarks"
SPEC = importlib.util.spec_from_file_location("bench_table", HERE / "table.py")
table = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(table)
FIELDS = {
    "name",
    "what",
    "against",
    "target",
    "bound",
    "unit",
    "definition",
    "measured",
    "reached",
    "machine",
}
RESULTS = sorted((HERE / "results").glob("*.json"))


def test_every_row_has_its_script():
    """The table names scripts that are there, and no result is left without a row."""
    assert all((HERE / f"{name}.py").is_file() for name in table.NAMES)
    assert {path.stem for path in RESULTS} <= set(table.NAMES)


@pytest.mark.parametrize("path", RESULTS, ids=lambda path: path.stem)
def test_a_result_holds_its_fields(path):
    """Definition, both medians, every repetition, sizes and machine; nothing that names a place."""
    reported = json.loads(path.read_text())

    assert reported.keys() >= FIELDS
    assert reported["name"] == path.stem
    assert reported["machine"].keys() == {"cpu", "threads", "torch"}
    assert not any(position in path.read_text() for position in ("/tmp/", "/home/", "/root/"))
    for case in reported.get("cases", {}).values():
        assert {"ratio", "ours", "theirs", "spent", "repetitions", "sizes"} <= case.keys()
        assert case["ratio"] == pytest.approx(case["theirs"] / case["ours"], rel=1e-3)
    if "cases" in reported:
        assert reported["measured"] == min(case["ratio"] for case in reported["cases"].values())


@pytest.mark.parametrize("path", RESULTS, ids=lambda path: path.stem)
def test_reached_is_what_the_figures_say(path):
    """A row is reached only with all its promises."""
    reported = json.loads(path.read_text())
    kept = [
        p["measured"] >= p["target"] if p["bound"] == "at least" else p["measured"] <= p["target"]
        for p in (reported, *reported.get("also", {}).values())
    ]

    assert reported["reached"] == all(kept)


def test_the_readme_shows_the_tables():
    """`python benchmarks/table.py` would change nothing."""
    readme = (HERE / "README.md").read_text()

    assert table.replace_table(readme, "table", table.render()) == readme
    assert table.replace_table(readme, "coverage", table.render_coverage()) == readme
