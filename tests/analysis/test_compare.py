"""The comparison stage on a finished pair: tables follow from rollouts, routers are blind to test prompts."""

import contextlib
import json
from pathlib import Path

import duckdb
import polars as pl
import pyarrow.parquet as pq
import pytest

from fsgen.analysis.comparison import compare, divergence, drafting, off_policy
from fsgen.cli import step_times
from fsgen.collaboration import route
from fsgen.config.policies import Policy
from fsgen.tables import files, lake, parquet
from fsgen.tables.schemas.comparison import TABLES
from tests.conftest import family_world, finish_pair

TESTS = "prompt_id in (select prompt_id from prompts where split = 'test')"


@pytest.fixture(scope="module")
def compared(tiny_checkpoints, tmp_path_factory):
    """Two members of the embedded family, all stages up to `compare`; returns settings and metrics."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("compared"))
        loaded = family_world(tiny_checkpoints)
        finish_pair(loaded)
        compare.compare(loaded)
        yield loaded, json.loads(Path("metrics/comparisons.json").read_text())["toy"]["duo"]


def table(name: str) -> pl.DataFrame:
    return parquet.read(f"data/comparisons/toy/{name}.parquet")


def test_every_table_is_there_under_its_view(compared):
    """Nine tables, each with rows, each asked for through SQL."""
    for name in TABLES:
        assert lake.query(f"select count(*) as n from {name}")["n"][0] > 0, name
        assert lake.columns(name)


def test_budgets_in_the_metrics_are_recounted_call_ratios(compared):
    """The target and the ratio on test prompts, for every policy with a budget."""
    loaded, metrics = compared
    counted = lake.query(
        f"select policy, avg(called::int) share from rollout_tokens where in_answer and {TESTS} group by all"
    )
    shares = dict(counted.iter_rows())

    assert set(metrics["budgets"]) == {p.name for p in loaded.policies if p.budget is not None}
    for name, result in metrics["budgets"].items():
        assert result["value"] == pytest.approx(shares[name], abs=1e-6)
        assert result["low"] <= result["value"] <= result["high"]


def test_a_fork_is_an_unrouted_mismatch_after_a_shared_prefix(compared):
    """At its position the policy's own table says mismatch and no call; before it, the two texts are one."""
    divergences = lake.query(
        """select f.policy, f.prompt_id, f.pos, r.called, r.mismatch, r.entropy = f.entropy as is_same,
                  (select count(*) from rollout_tokens a join rollout_tokens b using (prompt_id, pos)
                   where a.policy = f.policy and b.policy = f.method || '+always' and a.pos < f.pos
                     and a.prompt_id = f.prompt_id and a.token_id <> b.token_id) as apart
           from divergences f join rollout_tokens r using (policy, prompt_id, pos)"""
    )

    assert len(divergences) == len(table("divergences")) > 0
    assert divergences["mismatch"].all()
    assert not divergences["called"].any()
    assert divergences["is_same"].all()
    assert divergences["apart"].sum() == 0


def test_policies_that_never_leave_have_no_divergence_and_never_diverges_at_its_first_mismatch(compared):
    """Divergences are measured against `always`; `perfect` without a budget writes the same text."""
    policies = set(table("divergences")["policy"])

    assert not {p for p in policies if p.endswith(("+always", "+perfect"))}
    assert "oracle+never" in policies


def test_the_estimate_is_exact_for_as_long_as_the_policy_stays_on_the_dumped_text(compared):
    """Where `simulated_tokens` says on_policy, both agree on the call; and some texts are left."""
    both = lake.query(
        f"""select on_policy, avg((a.called = b.called)::int) as agree, count(*) as n
            from simulated_tokens a left join rollout_tokens b using (policy, prompt_id, pos)
            where {TESTS} group by on_policy"""
    )
    agree = {row["on_policy"]: row["agree"] for row in both.iter_rows(named=True)}

    assert agree[True] == 1
    assert set(agree) == {True, False}


@contextlib.contextmanager
def changed(loaded, source: str, change: pl.Expr):
    """A world in which this table was changed so before routers were fitted."""
    path = Path(source)
    frame, schema, whole = parquet.read(path), pq.read_schema(path), path.read_bytes()
    path.unlink()  # a hard link to a shard, which stays as it is
    parquet.write(path, frame.with_columns(change), schema)
    route.route_pair(loaded, "duo")
    try:
        yield
    finally:
        path.write_bytes(whole)
        route.route_pair(loaded, "duo")


def kept_of(rows: list[dict]) -> tuple[int, bool]:
    """How many rows a policy provably wrote, walking from the first, and whether it then left the text."""
    for written, row in enumerate(rows):
        is_asked = row["called"] or "+perfect" in row["policy"]
        if is_asked and not row["certified"]:
            return written, False
        if row["called"] and row["mismatch"]:
            return written + 1, True
    return len(rows), False


def test_survival_is_that_of_texts_walked_token_by_token(compared):
    """Every policy's curve, with one position in seven taken for uncertain in some texts."""
    loaded, _ = compared
    uncertainty = pl.when(pl.col("pos") % 7 == 6).then(False).otherwise("certified")
    with changed(loaded, "data/fused/duo/toy/fused-0000.parquet", uncertainty.alias("certified")):
        routed = lake.query(f"from simulated_tokens where {TESTS} order by policy, prompt_id, pos")
        curves = pl.DataFrame(compare.compare_pair(loaded, "duo", "toy")["survival"])
    texts = {}
    for (policy, _), subset in routed.group_by("policy", "prompt_id", maintain_order=True):
        texts.setdefault(policy, []).append(kept_of(subset.to_dicts()))

    assert set(texts) == set(curves["policy"])
    assert set(routed["certified"]) == {True, False}
    for (policy,), subset in curves.sort("pos").group_by("policy"):
        kept_P, is_left_P = (pl.Series(column).to_numpy() for column in zip(*texts[policy], strict=True))
        result = off_policy.kaplan_meier(kept_P, is_left_P, subset["pos"].to_numpy())
        assert subset["at_risk"].to_list() == result.at_risk.tolist()
        assert subset["survival"].to_list() == pytest.approx(result.share.tolist())


def test_a_policy_leaves_at_its_last_token_and_not_where_nobody_can_tell():
    """A routed mismatch is an event at any position; an unproven one loses the text before its row."""
    stories = {  # policy to its rows: called, mismatch, certified, on_policy
        "a+last": [(0, 0, True, 1), (1, 1, True, 1)],
        "b+middle": [(1, 0, True, 1), (1, 1, True, 1), (0, 0, True, 0)],
        "c+unproven": [(0, 1, True, 1), (1, 0, False, 1), (1, 1, True, 0)],
        "d+quiet": [(0, 1, False, 1), (0, 0, True, 1)],
        "e+knowing": [(0, 0, True, 1), (0, 0, False, 1)],
    }
    names = ("policy", "prompt_id", "called", "mismatch", "certified", "on_policy")
    flags = dict.fromkeys(("called", "mismatch", "on_policy"), pl.Boolean)
    reported = [(policy, "p", *row) for policy, rows in stories.items() for row in rows]
    routed = pl.DataFrame(reported, schema=names, orient="row").cast(flags)
    with duckdb.connect() as tables:
        tables.register("simulated_tokens", routed)
        result = tables.sql(compare.KEPT.format(here="true", knowing=["e+knowing"])).pl()

    assert result.select("policy", "kept", "is_left").rows() == [
        ("a+last", 2, True),
        ("b+middle", 2, True),
        ("c+unproven", 1, False),
        ("d+quiet", 2, False),
        ("e+knowing", 1, False),
    ]


def texts_of(tokens: dict[str, list], turns: dict[str, list]) -> pl.DataFrame:
    """What TEXTS makes of `rollout_tokens` (token, in_answer) and `policy_grades` (extracted, rating)."""
    names = {"policy": pl.String, "prompt_id": pl.String}
    columns = {"pos": pl.Int32, "token_id": pl.Int32, "in_answer": pl.Boolean}
    verdicts = {"turn": pl.Int32, "extracted": pl.String, "rating": pl.Float32}
    with duckdb.connect() as tables:
        for view, reported, schema in (
            ("rollout_tokens", tokens, columns),
            ("policy_grades", turns, verdicts),
        ):
            rows = [
                (policy, "p", i, *row) for policy, subset in reported.items() for i, row in enumerate(subset)
            ]
            frame = pl.DataFrame(rows, schema=names | schema, orient="row")
            tables.register(view, frame.with_columns(entropy=pl.lit(0.5)))
        return tables.sql(compare.TEXTS.format(here="true")).pl()


KNOWN = {
    f"oracle+{router}": Policy(name=f"oracle+{router}", method="oracle", router=router)
    for router in ("always", "never")
}


def test_a_fork_in_a_later_turn_stands_where_its_row_does():
    """Given tokens between two answers hold their places, and none of them is part of an answer."""
    given = [(8, False), (9, False)]
    tokens = {
        "oracle+always": [(1, True), *given, (2, True), (3, True)],
        "oracle+never": [(1, True), *given, (2, True), (4, True)],
    }
    (event,) = divergence.divergence_rows(texts_of(tokens, {name: [("5", None)] for name in tokens}), KNOWN)

    assert (event["policy"], event["pos"], event["token_ids"]) == ("oracle+never", 4, [1, 2, 4])
    assert event["same_answer"]


@pytest.mark.parametrize(
    ("turns", "expected"),
    [
        ([[("18", None)], [("18", None)]], True),
        ([[("18", None)], [("18.00", None)]], False),
        ([[("18", None)], [(None, None)]], None),
        ([[("7", 7.0), ("9", 9.0)], [("7", 7.0), ("9", 9.0)]], None),
        ([[("7", 7.0), (None, None)], [("8", 8.0), ("9", 9.0)]], None),
    ],
)
def test_answers_are_the_same_where_they_are_spelt_alike_and_ratings_are_no_answers(turns, expected):
    """Both have one, or null; two conversations that a judge rates alike need not say the same."""
    tokens = {"oracle+always": [(1, True)], "oracle+never": [(2, True)]}
    (event,) = divergence.divergence_rows(texts_of(tokens, dict(zip(tokens, turns, strict=True))), KNOWN)

    assert event["same_answer"] is expected


def test_forks_may_begin_with_any_number_of_nulls(compared, monkeypatch):
    """A hundred texts that never come together again, and have no answer, before one that does."""
    loaded, _ = compared
    (first, *rest) = table("divergences").with_columns(token_ids=pl.lit([1])).to_dicts()
    alone = first | {"tokens_to_reconverge": None, "same_answer": None}
    result = first | {"tokens_to_reconverge": 3, "same_answer": True}
    monkeypatch.setattr(divergence, "divergence_rows", lambda *_: [*[alone] * 120, result, *rest])

    divergences = compare.compare_pair(loaded, "duo", "toy")["divergences"]
    assert [event["tokens_to_reconverge"] for event in divergences[119:121]] == [None, 3]


def test_one_prompt_can_be_told(tmp_path, monkeypatch):
    """Metrics hold no infinity: what a round can do bounds what drafting one text says of others."""
    monkeypatch.chdir(tmp_path)
    rows = pl.DataFrame({"mismatch": [False] * 7 + [True]}).with_columns(prompt_id=pl.lit("p"), turn=1)
    drafts, speedups = drafting.drafting_tables(rows, 0.1, seed=1)
    reported = {name: [] for name in TABLES} | {"accepted_lengths": [{"pair": "duo"} | row for row in drafts]}
    path = files.write_metrics("comparisons", compare.summarise(reported, compare.group_routers({})))

    lengths = json.loads(path.read_text())["duo"]["accepted_length"]
    assert {int(k): (result["low"], result["high"]) for k, result in lengths.items()} == {
        k: (0, k) for k in drafting.DRAFTED
    }
    assert all(None not in row.values() for row in (*drafts, *speedups))


def test_survival_starts_at_one_and_falls(compared):
    """Every policy's curve, from no token on."""
    for _, subset in table("survival").sort("pos").group_by("policy"):
        assert subset["survival"][0] == 1
        assert (subset["survival"].diff().drop_nulls() <= 1e-12).all()


def test_drafting_agrees_with_the_policies_of_params(compared):
    """Tokens per pass at K is tokens over large_forward_passes of speculative@K."""
    drafts = dict(table("accepted_lengths").select("draft_length", "tokens_per_pass").iter_rows())
    totals = (
        parquet.read("data/counts/toy/policies.parquet").group_by("policy").agg(pl.sum("tokens", "calls"))
    )
    for policy, tokens, calls in totals.iter_rows():
        if policy.startswith("speculative"):
            assert drafts[int(policy.partition("@")[2])] == pytest.approx(tokens / calls)


def routes() -> dict[str, str]:
    """What routers are, as the stage leaves it."""
    folder = Path("data/routes/duo")
    return {"calibrated.json": (folder / "calibrated.json").read_text()}


def routes_with(loaded, source: str, change: pl.Expr) -> dict[str, str]:
    """What routers would be if this table were changed so."""
    with changed(loaded, source, change):
        return routes()


def is_test() -> pl.Expr:
    prompts = parquet.read("data/prompts/toy.parquet").filter(split="test")["prompt_id"]
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
    drafts = dict(table("accepted_lengths").select("draft_length", "tokens_per_pass").iter_rows())
    free = step_times.speed_ups(
        loaded, "duo", "toy", step_times.StepTimes(0.0, 1.0, dict.fromkeys((1, 3, 5, 8), 1.0))
    )
    measured = step_times.measure(loaded, "duo", "toy", prompts=2)

    assert {k: drafts[k] for k in (1, 3, 5, 8)} == pytest.approx(
        {k: result.value for k, result in free.items()}
    )
    assert min(measured.small, measured.large, *measured.verification.values()) > 0
    slower = step_times.speed_ups(
        loaded, "duo", "toy", step_times.StepTimes(0.5, 1.0, dict.fromkeys((1, 3, 5, 8), 1.5))
    )
    assert all(slower[k].value < free[k].value / 1.5 for k in free)
