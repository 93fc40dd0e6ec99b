"""The comparison stage on a finished pair: tables follow from rollouts, routers are blind to test prompts."""

import json
from pathlib import Path

import polars as pl
import pyarrow.parquet as pq
import pytest
from conftest import family_world, finish_pair

from fsgen import comparison, lake, pace, simulation, store

TESTS = "prompt_id in (select prompt_id from prompts where split = 'test')"


@pytest.fixture(scope="module")
def compared(tiny_checkpoints, tmp_path_factory):
    """Two members of the embedded family, all stages up to `compare`; returns settings and metrics."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("compared"))
        loaded = family_world(tiny_checkpoints)
        finish_pair(loaded)
        comparison.compare(loaded)
        yield loaded, json.loads(Path("metrics/comparisons.json").read_text())["toy"]["duo"]


def table(name: str) -> pl.DataFrame:
    return store.read(f"data/compared/toy/{name}.parquet")


def test_every_table_is_there_under_its_view(compared):
    """Nine tables, each with rows, each asked for through SQL."""
    for name in comparison.TABLES:
        assert lake.ask(f"select count(*) as n from {name}")["n"][0] > 0, name
        assert lake.columns(name)


def test_budgets_in_the_metrics_are_recounted_call_ratios(compared):
    """Target beside what test prompts came to, for every policy with a budget."""
    loaded, metrics = compared
    counted = lake.ask(
        f"select policy, avg(called::int) as share from rolled where in_answer and {TESTS} group by policy"
    )
    shares = dict(counted.iter_rows())

    assert set(metrics["budgets"]) == {p.name for p in loaded.policies if p.budget is not None}
    for name, found in metrics["budgets"].items():
        assert found["x"] == pytest.approx(shares[name], abs=1e-6)
        assert found["x_low"] <= found["x"] <= found["x_high"]


def test_a_fork_is_an_unrouted_mismatch_after_a_shared_prefix(compared):
    """At its position the policy's own table says mismatch and no call; before it, the two texts are one."""
    forks = lake.ask(
        """select f.policy, f.prompt_id, f.pos, r.called, r.mismatch, r.entropy = f.entropy as is_same,
                  (select count(*) from rolled a join rolled b using (prompt_id, pos)
                   where a.policy = f.policy and b.policy = f.method || '+always' and a.pos < f.pos
                     and a.prompt_id = f.prompt_id and a.token_id <> b.token_id) as apart
           from forks f join rolled r using (policy, prompt_id, pos)"""
    )

    assert len(forks) == len(table("forks")) > 0
    assert forks["mismatch"].all()
    assert not forks["called"].any()
    assert forks["is_same"].all()
    assert forks["apart"].sum() == 0


def test_policies_that_never_leave_have_no_fork_and_never_forks_at_its_first_mismatch(compared):
    """`always` is what forks are measured against; `perfect` without a budget writes the same text."""
    policies = set(table("forks")["policy"])

    assert not {p for p in policies if p.endswith(("+always", "+perfect"))}
    assert "oracle+never" in policies


def test_the_estimate_is_exact_for_as_long_as_the_policy_stays_on_the_dumped_text(compared):
    """Where `routed` says on_text, rollout and estimate agree on the call; and some texts are left."""
    both = lake.ask(
        f"""select on_text, avg((a.called = b.called)::int) as agree, count(*) as n
            from routed a left join rolled b using (policy, prompt_id, pos) where {TESTS} group by on_text"""
    )
    agree = {row["on_text"]: row["agree"] for row in both.iter_rows(named=True)}

    assert agree[True] == 1
    assert set(agree) == {True, False}


def test_survival_starts_at_one_and_falls(compared):
    """Every policy's curve, from no token on."""
    for _, own in table("survival").sort("pos").group_by("policy"):
        assert own["survival"][0] == 1
        assert (own["survival"].diff().drop_nulls() <= 1e-12).all()


def test_drafting_agrees_with_the_policies_of_params(compared):
    """Tokens per pass at K is tokens over large_passes of speculative@K."""
    drafts = dict(table("drafts").select("draft", "tokens_per_pass").iter_rows())
    totals = (
        store.read("data/evaluated/toy/policies.parquet").group_by("policy").agg(pl.sum("tokens", "calls"))
    )
    for policy, tokens, calls in totals.iter_rows():
        if policy.startswith("speculative"):
            assert drafts[int(policy.partition("@")[2])] == pytest.approx(tokens / calls)


def routes() -> dict[str, str]:
    """What routers are, as the stage leaves it."""
    folder = Path("data/routes/duo")
    return {name: (folder / name).read_text() for name in ("thresholds.json", "learned/toy.json")}


def routes_with(loaded, source: str, change: pl.Expr) -> dict[str, str]:
    """What routers would be if this table were changed so."""
    path = Path(source)
    frame, schema, whole = store.read(path), pq.read_schema(path), path.read_bytes()
    path.unlink()  # a hard link to a shard, which stays as it is
    store.write(path, frame.with_columns(change), schema)
    simulation.route_pair(loaded, "duo")
    found = routes()
    path.write_bytes(whole)
    simulation.route_pair(loaded, "duo")
    return found


def is_test() -> pl.Expr:
    prompts = store.read("data/prompts/toy.parquet").filter(split="test")["prompt_id"]
    return pl.col("prompt_id").is_in(prompts.to_list())


def test_no_router_can_be_fitted_on_test_prompts(compared):
    """Turn every test row's mismatch around, make its record nonsense: no threshold and no weight moves.

    The same on calibration rows moves them, so this test can fail.
    """
    loaded, _ = compared
    before = routes()
    for source, change in {
        "data/fused/duo/toy/fused-0000.parquet": lambda where: pl.col("mismatch") ^ where,
        "data/dumps/small/toy/tokens-0000.parquet": lambda where: (
            pl.col("entropy") + 9 * where.cast(pl.Float32)
        ),
    }.items():
        assert before == routes_with(loaded, source, change(is_test()))
        moved = routes_with(loaded, source, change(~is_test()))
        assert all(moved[name] != before[name] for name in before)


def test_the_measured_pace_decides_the_speed_up(compared):
    """With a free drafter and free verification it is tokens per pass; both models' steps take time here."""
    loaded, _ = compared
    drafts = dict(table("drafts").select("draft", "tokens_per_pass").iter_rows())
    free = pace.speed_ups(loaded, "duo", "toy", pace.Pace(0.0, 1.0, dict.fromkeys((1, 3, 5, 8), 1.0)))
    measured = pace.measure(loaded, "duo", "toy", prompts=2)

    assert {k: drafts[k] for k in (1, 3, 5, 8)} == pytest.approx(
        {k: found.value for k, found in free.items()}
    )
    assert min(measured.small, measured.large, *measured.verification.values()) > 0
    slower = pace.speed_ups(loaded, "duo", "toy", pace.Pace(0.5, 1.0, dict.fromkeys((1, 3, 5, 8), 1.5)))
    assert all(slower[k].value < free[k].value / 1.5 for k in free)
