"""Tests of `archive`: a kept run can be judged by its files; its page is its numbers."""

import json
import os
import re
from pathlib import Path

import pytest

from fsgen.errors import UserError
from fsgen.execution import timings
from fsgen.report import archive, findings, report
from tests.conftest import check_part

ROOT = Path(__file__).parents[2]
KEPT = sorted((ROOT / "results").glob("*/params.yaml"))


@pytest.fixture
def kept(finished, monkeypatch, tmp_path):
    """The finished run, kept outside the folder that tests share, with two attempts timed."""
    monkeypatch.setattr(archive, "RESULTS", Path("results"))
    monkeypatch.setattr(timings, "KEPT", tmp_path / "timings")
    with timings.timed("rollout@duo"):
        timings.count(1234)
    report.write_report(finished)
    return archive.archive(finished, "mine").resolve()


def sections(page: str) -> dict[str, str]:
    return dict(re.findall(r"^## ([^\n]+)\n\n(.+?)(?=\n\n## |\Z)", page, flags=re.M | re.S))


def test_everything_needed_to_judge_a_run_is_kept_and_no_dump(kept):
    """Settings and numbers byte for byte, figures, the explorer, environment and times."""
    assert (kept / "params.yaml").read_bytes() == Path("params.yaml").read_bytes()
    for name in ("toy", "comparisons", "scaling", "uncertainty"):
        assert (kept / f"metrics/{name}.json").read_bytes() == Path(f"metrics/{name}.json").read_bytes()
    figures = {path.relative_to(kept) for path in (kept / "plots").rglob("*.svg")}
    assert figures == set(Path("plots").rglob("*.svg"))
    assert (kept / "plots/report.html").is_file()
    assert not [*kept.rglob("*.parquet")]
    reported = json.loads((kept / "environment.json").read_text())
    assert {"torch", "duckdb", "python"} <= reported["versions"].keys()
    assert reported["machine"]["cores"] >= 1
    assert {(m["dtype"], m["device"]) for m in reported["models"].values()} == {("float32", "cpu")}
    assert all(model["files"] for model in reported["models"].values())


def test_the_page_is_made_of_what_stands_beside_it(kept, monkeypatch):
    """Elsewhere, without the tables of the run, it is the same page."""
    monkeypatch.chdir(ROOT)
    assert findings.page("mine", kept) == (kept / "README.md").read_text()


def test_the_page_tells_the_numbers_of_the_metrics(kept):
    """One cell of every section, rounded by hand."""
    reported = sections((kept / "README.md").read_text())
    assert reported.keys() == findings.SECTIONS.keys()
    numbers = json.loads(Path("metrics/toy.json").read_text())
    compared = json.loads(Path("metrics/comparisons.json").read_text())["toy"]["duo"]
    uncertainty = json.loads(Path("metrics/uncertainty.json").read_text())["toy"]["duo"]
    pair = numbers["pairs"]["duo"]

    def share(of, key="value", low="low", high="high"):
        return f"{100 * of[key]:.1f} ({100 * of[low]:.1f} to {100 * of[high]:.1f})"

    assert f"| toy | large | {numbers['models']['large']['prompts']} |" in reported["The models alone"]
    cof = pair["cof"]["oracle"]
    assert f"| oracle | {share(cof)} | {cof['tokens']} | dump |" in reported["Collaboration frequency"]
    held = uncertainty["oracle"]["large"]["scores"]["entropy"]["top_10_percent_holds"]
    assert f"| oracle | large | {share(held)} |" in reported["Where the need sits"]
    requested = pair["policies"]["oracle+entropy@20"]
    assert (
        f"{share(requested, 'accuracy')} for {100 * requested['call_ratio']:.1f}"
        in reported["Accuracy against calls"]
    )
    estimate = compared["call_ratio_estimates"]["oracle+entropy@20"]
    expected = share(estimate, "difference", "difference_low", "difference_high")
    assert expected in reported["Off-policy estimates"]
    greedy, drafted = compared["acceptance"]["greedy"], compared["accepted_length"]["3"]
    assert share(greedy, "rate", "rate_low", "rate_high") in reported["Drafting"]
    assert f"{drafted['value']:.2f} ({drafted['low']:.2f} to" in reported["Drafting"]
    assert "1,234" in reported["Time"]
    environment = json.loads((kept / "environment.json").read_text())
    assert f"torch {environment['versions']['torch']}" in reported["Made with"]
    assert f"{environment['machine']['cores']} cores" in reported["Made with"]


def test_what_laws_foretold_is_said_with_both_intervals(kept):
    """A prediction without an interval is one number, and meets nothing."""
    scaling = kept / "metrics/scaling.json"
    reported = json.loads(scaling.read_text())
    row = {"law": "gap", "method": "oracle", "cof": 0.1, "cof_low": 0.09, "cof_high": 0.11}
    row |= {"predicted": 0.2, "predicted_low": 0.15, "predicted_high": 0.25}
    row |= {"intervals_overlap": False, "extrapolation_note": "ratio 9"}
    blind = row | {"law": "power", "predicted_low": None, "predicted_high": None, "intervals_overlap": None}
    reported["toy"]["oracle"]["predictions"] = [row, blind]
    scaling.write_text(json.dumps(reported))
    page = findings.page("mine", kept)

    assert "| gap | 10.0 (9.0 to 11.0) | 20.0 (15.0 to 25.0) | no | ratio 9 |" in page
    assert "| power | 10.0 (9.0 to 11.0) | 20.0 | no interval | ratio 9 |" in page


def test_notes_survive_and_open_the_findings(kept, finished):
    """What a person wrote is not lost when the run is kept anew."""
    (kept / "notes.md").write_text("Read with care.\n")
    archive.archive(finished, "mine")

    assert (kept / "notes.md").read_text() == "Read with care.\n"
    assert (kept / "README.md").read_text().startswith("# mine\n\nRead with care.\n\n## The models alone\n")


@pytest.mark.parametrize("name", ["", "..", "a/b", "a b", ".hidden"])
def test_a_name_that_is_no_folder_of_its_own_is_refused(finished, name):
    """Nothing outside results/ is touched."""
    with pytest.raises(UserError, match="plain name"):
        archive.archive(finished, name)


def test_an_unfinished_run_is_not_kept(tiny_world):
    """And nothing is left behind that looks like one."""
    with pytest.raises(UserError, match="run 'dvc repro'"):
        archive.archive(tiny_world, "mine")
    assert not Path("results/mine").exists()


@pytest.mark.parametrize("params", KEPT, ids=lambda path: path.parent.name)
def test_committed_pages_are_fresh(params):
    """The page is what its numbers say (run `fsgen archive` anew, or FSGEN_WRITE_DOCS=1 this test)."""
    folder = params.parent
    page = findings.page(folder.name, folder)
    if os.environ.get("FSGEN_WRITE_DOCS"):
        (folder / "README.md").write_text(page)
    assert (folder / "README.md").read_text() == page
    assert not [*folder.rglob("*.parquet")]
    assert max(path.stat().st_size for path in folder.rglob("*")) < 6_000_000


def test_the_readme_shows_a_kept_run():
    """Its table is drawn from results/ (FSGEN_WRITE_DOCS=1 writes it anew)."""
    check_part("real", [findings.brief(ROOT / "results/qwen-coder") + "\n"])
