"""What a router fixes goes by what it does, not by its name in params.yaml."""

from pathlib import Path

import polars as pl
import pytest

from fsgen.analysis.comparison import compare
from fsgen.config.policies import RouterConfig
from fsgen.tables import files, parquet
from tests.conftest import PARAMS, finish_pair, write_params, write_prompts

NAMES = {"oracle+ask_all": "oracle+always", "oracle+mute": "oracle+never"}


@pytest.fixture(scope="module")
def renamed(tiny_checkpoints, tmp_path_factory):
    """A finished pair in which each constant router, and chance, has a second name; returns both metrics."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("renamed"))
        Path("checkpoints").symlink_to(tiny_checkpoints)
        write_prompts()
        params = PARAMS | {
            "methods": {"oracle": {}},
            "routers": {
                "always": {},
                "never": {},
                "entropy": {},
                "ask_all": {"rule": "always"},
                "mute": {"rule": "never"},
                "coin": {"rule": "random"},
            },
            "policies": [*NAMES, *NAMES.values(), "oracle+entropy@20", "oracle+coin@20"],
        }
        loaded = write_params(params)
        finish_pair(loaded)
        compare.compare(loaded)
        evaluated, compared = (files.read_metrics(Path(f"metrics/{n}.json")) for n in ("toy", "comparisons"))
        yield evaluated["pairs"]["duo"], compared["toy"]["duo"]


def rows_of(table: str, policy: str) -> pl.DataFrame:
    return (
        parquet.read(f"data/comparisons/toy/{table}.parquet").filter(policy=policy).drop("policy", "router")
    )


@pytest.mark.parametrize(("name", "plain"), NAMES.items())
def test_another_name_of_a_constant_router_changes_no_number(renamed, name, plain):
    """Ratios, intervals, costs, verdicts; and every row of the comparisons."""
    evaluated, _ = renamed

    for numbers in (evaluated["policies"], evaluated["estimates"]):
        assert numbers[name] == numbers[plain]
    reported = evaluated["policies"][name]
    assert reported["call_ratio_low"] == reported["call_ratio"] == reported["call_ratio_high"]
    for table in ("frontier", "off_policy_estimates", "survival", "divergences"):
        assert rows_of(table, name).equals(rows_of(table, plain)), table
    assert not len(rows_of("off_policy_estimates", name))  # there is nothing to estimate
    calls = rows_of("frontier", name).filter(cost_axis="call_ratio")
    assert calls["cost_low"].item() == calls["cost"].item() == calls["cost_high"].item()


def test_the_summary_knows_chance_and_silence_by_what_they_do(renamed):
    """Routers against `coin`, and reunions of texts that never called, whatever the names."""
    _, compared = renamed

    assert set(compared["against_random"]) == {"oracle+entropy@20"}
    assert set(compared["reconverged"]) == {"oracle"}


def test_routers_are_grouped_by_what_they_do():
    """A rule may have several names."""
    rules = {"mute": "never", "hush": "never", "coin": "random", "seer": "perfect", "ask_all": "always"}
    groups = compare.group_routers({name: RouterConfig(rule=rule) for name, rule in rules.items()})

    assert groups == compare.RouterGroups(
        never=frozenset({"mute", "hush"}), random=frozenset({"coin"}), perfect=frozenset({"seer"})
    )
