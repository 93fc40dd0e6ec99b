"""The GPU benchmark in miniature, on a CPU: what its result holds, and that both sides write the same."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.models
SCRIPT = Path(__file__).parent.parent / "benchmarks" / "gpu.py"
ENVIRONMENT = {
    "card",
    "card_bytes",
    "torch",
    "transformers",
    "cuda",
    "miniature",
    "minutes",
    "copy_bytes_per_second",
    "product_flops",
    "attention",
    "seconds",
    "cases",
}
EXACTNESS = "float32 equals the CPU"
ROLLOUT = "rollout 0.5b with 7b"
WRITING = [
    "write 0.5b, 4 rows",
    "write 7b, 4 rows",
    "write 0.5b, 8 rows",
    "write 0.5b, 4 rows, uneven ends",
    "write 1.5b, 4 rows",
]
READING = ["read 0.5b", "read 7b", "read 1.5b"]
STATIC = ["generate static compiled 0.5b, 4 rows", "generate static compiled 7b, 4 rows"]
MEMORY = {"peak_bytes", "estimated_bytes"}

pytestmark = pytest.mark.models


@pytest.fixture(scope="module")
def result(tmp_path_factory):
    """What the script leaves."""
    out = tmp_path_factory.mktemp("gpu")
    command = [sys.executable, str(SCRIPT), "--miniature", "--out", str(out)]
    subprocess.run(command, check=True, cwd=out, capture_output=True, text=True)
    return json.loads((out / "miniature.json").read_text())


def test_every_case_is_measured(result):
    """None fails, and none is skipped."""
    cases = result["cases"]

    assert result.keys() == ENVIRONMENT
    assert cases.keys() == {EXACTNESS, ROLLOUT, *WRITING, *READING, *STATIC}
    assert {name: case["error"] for name, case in cases.items() if "error" in case} == {}
    assert not any("skipped" in case for case in cases.values())


@pytest.mark.parametrize("name", WRITING)
def test_writing_leaves_the_tokens_of_generate(result, name):
    """In float32 on one device every text is equal, where texts end at different places too."""
    case = result["cases"][name]

    assert case.keys() >= MEMORY | {
        "seconds",
        "tokens_per_second",
        "ratio_to_generate_dynamic",
        "bandwidth_limit_seconds",
        "share_of_bandwidth_limit",
        "waiting_share",
        "device",
        "host_synchronizations_of_sampled_tokens",
        "passes",
        "positions",
    }
    assert case["equal_texts"] == {"texts": case["texts"], "share_of_tokens_before_a_difference": 1.0}
    if "uneven" in name:
        assert case["shortest"] < case["longest"]


@pytest.mark.parametrize("name", READING)
def test_reading_is_compared_with_the_forward_pass(result, name):
    """Positions that were padding are none that were read."""
    case = result["cases"][name]

    assert case.keys() >= MEMORY | {"ratio_to_forward", "share_of_arithmetic_limit", "waiting_share"}
    assert case["positions_per_second"].keys() == {"fsgen", "forward"}
    assert case["tokens"] < case["read_positions"]


@pytest.mark.parametrize("name", STATIC)
def test_the_static_cache_is_compared_with_our_writing(result, name):
    """Its ratio needs the case without it."""
    assert result["cases"][name]["ratio_of_fsgen"] > 0


def test_a_rollout_has_its_budgets(result):
    """Eight of them; what goes through a model is what the stage's table counts, and padding."""
    case = result["cases"][ROLLOUT]

    assert case["budgets"] == 8
    assert case["policies"] >= case["budgets"]  # the pair's references are rollout_rows out too
    assert case.keys() >= MEMORY | {"tokens_per_second", "positions_per_second", "waiting_share"}
    assert case["stage_seconds"].keys() >= {"dump_large", "dump_small", "fuse", "route", "rollout"}
    assert all(case["real_positions"][name] <= case["positions"][name] for name in case["positions"])


def test_tokens_are_equal(result):
    """The same device twice leaves the same bytes, so no number differs either."""
    case = result["cases"][EXACTNESS]

    assert case["equal"]
    assert {"rollouts/duo/toy/tokens", "fused/duo/toy/fused"} <= case["tables"].keys()
    for table in case["tables"].values():
        assert table["lists_different"] == {}
        assert set(table["largest"].values()) <= {0.0}


def test_a_difference_is_found(monkeypatch):
    """A token, a decision, a list, a number and a row too many are seen, each in its place."""
    monkeypatch.setattr(sys, "path", [str(SCRIPT.parent), *sys.path])
    import polars as pl
    from gpu_exactness import compare

    one = pl.DataFrame(
        {
            "token_id": [1, 2, 3],
            "called": [True, False, None],
            "top_ids": [[1], [2], [3]],
            "entropy": [0.5, 1, None],
        },
        schema_overrides={"top_ids": pl.List(pl.Int32), "entropy": pl.Float32},
    )
    other = one.with_columns(
        token_id=pl.Series([1, 2, 4]),
        called=pl.Series([True, None, None]),
        top_ids=pl.Series([[1], [5], [3]], dtype=pl.List(pl.Int32)),
        entropy=pl.Series([0.5, 1.25, None], dtype=pl.Float32),
    )

    assert compare(one, one).is_equal
    outcome = compare(one, other)
    assert not outcome.is_equal
    assert outcome.different == {"token_id": 1, "called": 1}
    assert outcome.lists_different == {"top_ids": 1}
    assert outcome.largest == {"entropy": 0.25}
    assert not compare(one, one.head(2)).is_equal
