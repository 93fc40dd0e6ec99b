"""From tokens to numbers: counts recounted row by row, identities, intervals, the tables people read."""

import json
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest

from fsgen.analysis import catalogue, costs, counts, evaluate
from fsgen.analysis.fixed_counts import fixed_counts
from fsgen.config.policies import Policy, RouterConfig, method_table, parse_policy
from fsgen.errors import UserError
from fsgen.models import description
from fsgen.report import summary
from fsgen.tables import lake, parquet, views
from fsgen.tasks import grade
from tests.conftest import PARAMS, describe_all, run_pair, write_params, write_prompts


@pytest.fixture(scope="module")
def numbers(world) -> dict:
    """metrics/toy.json of the world, graded and evaluated."""
    for name in world.settings.models:
        grade.grade_models(world.settings, name)
    grade.grade_pair(world.settings, "duo")
    catalogue.write_catalogue(world.settings)
    evaluate.evaluate(world.settings, "toy")
    return json.loads(Path("metrics/toy.json").read_text())


def names_of_tests(world) -> set[str]:
    return set(world.prompts.filter(split="test")["prompt_id"])


def test_tallies_equal_a_recount_in_plain_python(world, numbers):
    """Tokens, calls, interventions and the large model's passes and positions, prompt by prompt."""
    counts = parquet.read("data/counts/toy/policies.parquet").rows_by_key(
        ["policy", "prompt_id"], named=True, unique=True
    )
    texts = parquet.read("data/rollouts/duo/toy/texts-*.parquet").filter(turn=1)
    texts = texts.rows_by_key(["policy", "prompt_id"], named=True, unique=True)
    rollout_rows = parquet.read("data/rollouts/duo/toy/tokens-*.parquet").sort("pos")
    grouped = rollout_rows.rows_by_key(["policy", "prompt_id"], named=True)
    assert {prompt for _, prompt in counts} == names_of_tests(world)

    for key, rows in grouped.items():
        counted = [row for row in rows if row["in_answer"]]
        called = [row["pos"] for row in rows if row["called"]]
        until_last = [row["from_template"] for row in rows if called and row["pos"] <= called[-1]]
        reported = counts[key]
        assert reported["tokens"] == len(counted)
        assert reported["calls"] == sum(row["called"] for row in counted)
        assert not any(row["from_template"] for row in counted)
        assert reported["mismatches"] == sum(row["fused_id"] != row["default_id"] for row in counted)
        assert reported["interventions"] == sum(row["called"] and row["mismatch"] for row in counted)
        assert reported["mismatches_vs_small"] == sum(row["fused_id"] != row["small_id"] for row in counted)
        assert reported["large_forward_passes"] == len(called)
        assert reported["large_tokens_processed"] == until_last.count(False)
        requested = texts[key]["prompt_tokens"] - 1 + until_last.count(True) if called else 0
        assert reported["large_prompt_tokens_processed"] == requested


def position_flops(role: str, index: int) -> int:
    """FLOPs of one position of a sequence."""
    about = description.read_description(role)
    sizes, shape = about["parameters"], about["shape"]
    return 2 * (sizes["non_embedding"] + sizes["head"]) + 4 * shape["layers"] * shape["width"] * (index + 1)


def drafted(turns: list[dict], rows: dict[int, list[bool]], draft: int) -> dict:
    """Costs of drafting a conversation, position by position; `rows`: turn -> where the models differ."""
    reported = {"forward_passes": 0, "tokens_processed": 0, "prompt_tokens_processed": 0, "flops": 0}
    past = 0  # tokens of the sequence before the turn
    for turn in turns:
        differs, begin = rows[turn["turn"]], past + turn["prompt_tokens"]
        requested = range(max(0, past - 1), begin - 1)
        reported["prompt_tokens_processed"] += len(requested)
        reported["flops"] += sum(position_flops(role, i) for role in ("small", "large") for i in requested)
        at = 0
        while at < len(differs):
            tried = differs[at : at + draft]
            accepted = tried.index(True) if True in tried else len(tried)
            first = begin - 1 + at
            verified = range(first, first + len(tried) + 1)
            at += accepted + 1
            catches_up = accepted == len(tried) and at < len(differs)
            by_small = range(first, first + len(tried) + catches_up)
            reported["forward_passes"] += 1
            reported["tokens_processed"] += len(verified)
            reported["flops"] += sum(position_flops("large", i) for i in verified)
            reported["flops"] += sum(position_flops("small", i) for i in by_small)
        past = begin + len(differs)
    return reported


@pytest.mark.parametrize("draft", [1, 3, 5])
def test_tallies_of_drafting_equal_a_plain_loop(world, numbers, draft):
    """Passes, positions, prompt positions and FLOPs, turn by turn, whatever was said before."""
    counts = parquet.read("data/counts/toy/policies.parquet").filter(policy=f"speculative@{draft}")
    turns = parquet.read("data/dumps/large/toy/texts-*.parquet").sort("turn")
    fused = parquet.read("data/fused/duo/toy/fused-*.parquet").filter(
        method="speculative", writer="large", from_template=False
    )

    assert set(counts["prompt_id"]) == names_of_tests(world)
    for row in counts.iter_rows(named=True):
        subset = fused.filter(prompt_id=row["prompt_id"]).sort("pos")
        rows = dict(subset.group_by("turn").agg("mismatch").iter_rows())
        reported = drafted(turns.filter(prompt_id=row["prompt_id"]).to_dicts(), rows, draft)
        for name in ("forward_passes", "tokens_processed", "prompt_tokens_processed"):
            assert row[f"large_{name}"] == reported[name]
        assert row["flops"] == pytest.approx(reported["flops"], rel=1e-12)


def test_a_policy_that_never_calls_costs_the_small_model_alone(world, numbers):
    """FLOPs are the small model's over prompt and text; proxy's default model is the tuned one."""
    for policy, role in (("oracle+never", "small"), ("proxy+never", "tuned")):
        about = description.read_description(role)
        sizes, shape = about["parameters"], about["shape"]
        texts = parquet.read("data/rollouts/duo/toy/texts-*.parquet").filter(policy=policy)
        texts = texts.group_by("prompt_id").agg(pl.sum("prompt_tokens", "tokens"))
        spent = costs.flops(
            costs.Shape(sizes["non_embedding"], sizes["head"], shape["layers"], shape["width"]),
            texts["prompt_tokens"].to_numpy() - 1,
            texts["tokens"].to_numpy(),
        )
        reported = numbers["pairs"]["duo"]["policies"][policy]

        assert reported["flops"] == pytest.approx(spent.sum())
        assert (
            reported["large_forward_passes"]
            == reported["large_tokens_processed"]
            == reported["large_prompt_tokens_processed"]
            == 0
        )


def test_identities_hold_between_policies_and_models(world, numbers):
    """Always is the large model, never the small one, drafting writes the large model's text."""
    pair, models = numbers["pairs"]["duo"], numbers["models"]
    policies = pair["policies"]

    for policy, model in (
        ("oracle+always", "large"),
        ("oracle+never", "small"),
        ("proxy+never", "tuned"),
        ("speculative@3", "large"),
    ):
        assert policies[policy]["accuracy"] == models[model]["accuracy"]
        assert policies[policy]["tokens"] == models[model]["tokens"]
        gain = models[model]["accuracy"] - models["large"]["accuracy"]
        assert policies[policy]["accuracy_minus_large"]["value"] == pytest.approx(gain, abs=2e-6)
    assert policies["oracle+always"]["call_ratio"] == 1.0
    assert policies["oracle+perfect"]["call_ratio"] == policies["oracle+perfect"]["intervention_ratio"]
    assert policies["oracle+perfect"]["intervention_ratio"] == pair["cof"]["oracle"]["value"]
    assert policies["oracle+always"]["intervention_ratio"] == pair["cof"]["oracle"]["value"]
    assert pair["cof"]["speculative"]["value"] == pair["cof"]["oracle"]["value"]
    assert pair["cof"]["oracle"]["counted_on"] == pair["cof"]["speculative"]["counted_on"] == "dump"
    assert {pair["cof"][m]["counted_on"] for m in ("contrastive", "average", "proxy")} == {"rollout"}
    assert pair["cof_on_large_text"]["oracle"]["certified_share"] == 1.0
    assert set(pair["cof_authors"]) == {"proxy"}
    assert (
        policies["speculative@1"]["large_forward_passes"] >= policies["speculative@5"]["large_forward_passes"]
    )
    if not world.until.turn_separators:  # whose answers to sums are all wrong
        assert any(0 < model["accuracy"] < 1 for model in models.values())


def test_every_number_lies_in_its_interval(numbers):
    """Low, value, high in this order, wherever an interval stands."""
    pair = numbers["pairs"]["duo"]
    ratios = [*pair["cof"].values(), *pair["cof_on_large_text"].values(), *pair["cof_authors"].values()]
    triples = [(cell["low"], cell["value"], cell["high"]) for cell in ratios]
    for entry in (*numbers["models"].values(), *pair["policies"].values()):
        triples.append((entry["low"], entry["accuracy"], entry["high"]))
    for entry in pair["policies"].values():
        for ratio in ("call_ratio", "intervention_ratio"):
            triples.append((entry[f"{ratio}_low"], entry[ratio], entry[f"{ratio}_high"]))

    assert len(triples) > 100
    assert all(0 <= low <= value <= high for low, value, high in triples)


def test_what_a_router_fixes_is_its_own_interval(numbers):
    """No next prompt changes how often `always` and `never` call, whatever the method; the rest may."""
    pair = numbers["pairs"]["duo"]
    seen = set()
    for policy, reported in pair["policies"].items():
        router = policy.partition("+")[2]
        for ratio in ("call_ratio", "intervention_ratio"):
            ends = [reported[f"{ratio}_low"], reported[f"{ratio}_high"]]
            if router == "never" or (router, ratio) == ("always", "call_ratio"):
                seen.add((router, ratio, *ends))
            else:
                assert ends[0] < ends[1], (policy, ratio)
        if router in ("always", "never"):
            requested = pair["estimates"][policy]
            assert requested["low"] == requested["call_ratio_estimate"] == requested["high"]

    assert seen == {
        ("always", "call_ratio", 1.0, 1.0),
        ("never", "call_ratio", 0.0, 0.0),
        ("never", "intervention_ratio", 0.0, 0.0),
    }


def test_what_is_fixed_goes_by_the_routers_rule():
    """Whatever its name; `+always` runs without being named, and drafting has no router."""
    routers = {"mute": RouterConfig(rule="never"), "entropy": RouterConfig(rule="entropy")}
    names = ("oracle+mute", "oracle+entropy@20", "speculative@3")
    policies = [parse_policy(name, method_table(PARAMS["methods"]), routers) for name in names]
    policies.append(Policy(name="oracle+always", method="oracle", router="always"))

    assert fixed_counts(policies, routers) == {
        "oracle+mute": ("calls", "interventions", "large_tokens_processed"),
        "oracle+entropy@20": (),
        "speculative@3": (),
        "oracle+always": ("calls",),
    }


def test_estimates_are_kept_apart_and_say_how_much_is_the_policys_own_text(numbers):
    """Never diverges nowhere, so its estimate is exact; always leaves the text at the first mismatch."""
    estimates = numbers["pairs"]["duo"]["estimates"]

    assert estimates["oracle+never"]["share_on_own_text"] == 1.0
    assert estimates["oracle+always"]["share_on_own_text"] < 1.0
    assert estimates["oracle+always"]["call_ratio_estimate"] == 1.0
    assert all("accuracy" not in entry for entry in estimates.values())


def test_every_view_answers_and_knows_where_its_rows_come_from(world, numbers):
    """Names of pair, model and dataset are columns, read from the path; views wait for their files."""
    for name in (name for name, view in views.VIEWS.items() if any(Path("data").glob(view.pattern))):
        rows = lake.query(f"select * from {name} limit 3")
        assert len(rows) == 3, name
        for column, expected in (("pair", "duo"), ("dataset", "toy")):
            assert column not in rows.columns or set(rows[column]) == {expected}
    cof = lake.query(
        "select avg(mismatch::int) from fused_tokens "
        "where method = 'oracle' and writer = 'large' and in_answer"
    )
    tests = lake.query(
        "select sum(mismatches) / sum(tokens) from policy_results where policy = 'oracle+always'"
    )
    assert 0 < cof.item() < 1
    assert round(tests.item(), 6) == numbers["pairs"]["duo"]["cof"]["oracle"]["value"]


def test_a_broken_query_is_one_sentence(world, numbers):
    """DuckDB's first line, and the views there are."""
    with pytest.raises(
        UserError, match=r"^The query failed: .*nothing.*\(known views: prompts, generated_tokens"
    ):
        lake.query("select * from nothing")


def fsgen(*words: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "fsgen.cli", *words], capture_output=True, text=True, check=False
    )


def test_the_command_line_speaks_to_people_and_programs(world, numbers):
    """Tables, CSV, JSON; columns with their sentences; errors as one line and exit code 1."""
    query = (
        "select policy, sum(tokens)::int tokens from policy_results where policy like 'spec%' "
        "group by 1 order by 1"
    )
    expected = (
        pl.read_parquet("data/counts/toy/policies.parquet").filter(policy="speculative@1")["tokens"].sum()
    )

    csv = fsgen("sql", "--format", "csv", query).stdout.splitlines()
    assert csv[:2] == ["policy,tokens", f"speculative@1,{expected}"]
    assert json.loads(fsgen("sql", "--format", "json", query).stdout)[0]["tokens"] == expected
    assert "speculative@5" in fsgen("sql", query).stdout
    assert "every method's token at every dumped position" in fsgen("tables").stdout
    assert "whether fused_id differs from default_id" in fsgen("tables", "fused_tokens").stdout
    assert "| duo |" in fsgen("summary").stdout
    assert "1 pairs" in fsgen("check").stdout
    assert "top_ids" in fsgen("sql", "--format", "csv", "select * from generated_tokens limit 1;").stdout
    assert "is not one query" in fsgen("sql", "").stderr
    failed = fsgen("sql", "selekt 1")
    assert failed.returncode == 1
    assert len(failed.stderr.splitlines()) == 1


def test_the_summary_table_reads_percent_with_intervals(numbers):
    """One row a pair; speculative repeats the oracle and is left out."""
    table = summary.markdown("toy", numbers)

    cof = numbers["pairs"]["duo"]["cof"]["oracle"]
    assert f"{100 * cof['value']:.1f} ({100 * cof['low']:.1f} to {100 * cof['high']:.1f})" in table
    assert "speculative" not in table


def tally_with(
    checkpoints_folder: Path, tokens_after_stop: int, stops: tuple[str, ...]
) -> tuple[pl.DataFrame, int]:
    """Tallies of a world whose texts stop at a string, and the rows that the large model's dump holds."""
    Path("checkpoints").symlink_to(checkpoints_folder)
    write_prompts(stops=stops)
    loaded = write_params(
        PARAMS
        | {
            "policies": ["speculative@1", "speculative@3"],
            "dump": PARAMS["dump"] | {"tokens_after_stop": tokens_after_stop},
        }
    )
    describe_all(loaded)
    run_pair(loaded)
    for name in loaded.models:
        grade.grade_models(loaded, name)
    grade.grade_pair(loaded, "duo")
    return counts.count_policies(loaded, "toy").policies, len(
        parquet.read("data/dumps/large/toy/tokens-*.parquet")
    )


def test_a_tail_behind_the_stop_costs_nothing(tiny_checkpoints, tmp_path, monkeypatch):
    """Nor does it count as a call: every number of every policy is that of a dump without one."""
    result = {}
    for tokens_after_stop in (0, 4):
        home = tmp_path / str(tokens_after_stop)
        home.mkdir()
        monkeypatch.chdir(home)
        result[tokens_after_stop] = tally_with(tiny_checkpoints, tokens_after_stop, ("w1 ", "w2 "))

    assert result[4][1] > result[0][1]
    assert result[0][0].equals(result[4][0])
    assert (result[0][0]["finish_reason"] == "stop").any()
    assert (result[0][0]["calls"] <= result[0][0]["tokens"]).all()
