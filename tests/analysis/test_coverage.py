"""What intervals are said to cover is what a fresh simulation finds."""

import importlib.util
import json
import math
from pathlib import Path

import pytest

HERE = Path(__file__).parents[2] / "benchmarks"
REPLICATES = {"coverage_prompts": 150, "coverage_ranking": 40}


def world(name: str):
    spec = importlib.util.spec_from_file_location(name, HERE / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def stated(name: str) -> dict:
    rows = json.loads((HERE / "results" / "coverage" / f"{name}.json").read_text())
    return {(row["kind"], row["size"]): row for row in rows}


@pytest.mark.long
@pytest.mark.parametrize("name", REPLICATES)
def test_a_fresh_simulation_finds_what_is_stated(name):
    """Other samples, the same coverage up to four standard errors, for every kind and number of prompts."""
    result = [*world(name).measure(REPLICATES[name], seed=11)]
    reported = stated(name)

    assert {(row["kind"], row["size"]) for row in result} == set(reported)
    for row in result:
        claim = reported[row["kind"], row["size"]]["measured"]
        error = math.sqrt(
            claim
            * (1 - claim)
            * (1 / REPLICATES[name] + 1 / reported[row["kind"], row["size"]]["replicates"])
        )
        assert abs(row["measured"] - claim) < 4 * error + 0.5 / REPLICATES[name], row


@pytest.mark.parametrize("name", [*REPLICATES, "coverage_laws"])
def test_no_interval_is_far_from_what_it_claims(name):
    """Nominal 95 %: measured at least 92 %, and for every kind at the sizes that it is given for."""
    measured = [row["measured"] for row in stated(name).values()]

    assert min(share for share in measured if share is not None) >= 0.92
