"""Router comparisons, survival, reconvergence and drafting equal their slow definitions."""

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fsgen.analysis import costs, intervals
from fsgen.analysis.comparison import divergence, drafting, frontiers, off_policy
from fsgen.analysis.fixed_counts import fixed_counts
from fsgen.config.policies import Policy, RouterConfig
from fsgen.tables.schemas.comparison import AXES

texts = st.lists(st.integers(0, 2), max_size=14)


def policy(text: str, budget: float | None = None) -> Policy:
    method, _, router = text.partition("@")[0].partition("+")
    return Policy(name=text, method=method, router=router, budget=budget)


KNOWN = {
    p.name: p
    for p in (
        policy("oracle+never"),
        policy("oracle+always"),
        policy("oracle+entropy@10", 0.1),
        policy("oracle+entropy@30", 0.3),
        policy("oracle+random@10", 0.1),
        policy("oracle+random@30", 0.3),
    )
}
ROUTERS = {name: RouterConfig(rule=name) for name in ("never", "always", "entropy", "random")}
FIXED = fixed_counts(KNOWN.values(), ROUTERS)
SHARES = dict(zip(KNOWN, [(0, 0.1), (1, 0.9), (0.1, 0.5), (0.3, 0.8), (0.1, 0.2), (0.3, 0.35)], strict=True))


def counts_of(prompts: int = 60, seed: int = 0) -> pl.DataFrame:
    """Counts of six policies on the same prompts: calls as their budget says, right more often if better."""
    rng = np.random.default_rng(seed)
    tokens_P, luck_P, rows = rng.integers(20, 40, prompts), rng.random(prompts), []
    for name, (call_ratio, accuracy) in SHARES.items():
        calls_P = rng.binomial(tokens_P, call_ratio)
        for i in range(prompts):
            verdict = "right" if luck_P[i] < accuracy else "wrong"
            spent = {
                "calls": calls_P[i],
                "large_tokens_processed": 2 * calls_P[i],
                "flops": 1e6 * calls_P[i] + 5e6,
            }
            rows.append(
                {"policy": name, "prompt_id": f"p{i:02d}", "tokens": tokens_P[i], "verdict": verdict, **spent}
            )
    return pl.DataFrame(rows)


def test_a_frontier_row_says_what_a_policy_called_spent_and_got_right():
    """Ratios of sums and a share, with the intervals of fsgen.analysis.intervals."""
    counts = counts_of()
    rows = {(r["policy"], r["cost_axis"]): r for r in frontiers.frontier_rows(counts, KNOWN, FIXED, seed=3)}
    subset = counts.filter(policy="oracle+entropy@10")
    row = rows["oracle+entropy@10", "call_ratio"]

    assert set(rows) == {(name, axis) for name in KNOWN for axis in AXES}
    assert (row["cost"], row["cost_low"], row["cost_high"]) == intervals.ratio(
        subset["calls"], subset["tokens"], seed=3
    )
    right = int((subset["verdict"] == "right").sum())
    assert (row["accuracy"], row["accuracy_low"], row["accuracy_high"]) == intervals.wilson(right, 60)
    assert (row["method"], row["router"], row["budget"]) == ("oracle", "entropy", 0.1)
    assert rows["oracle+entropy@10", "large_tokens_processed"]["cost"] == pytest.approx(2 * row["cost"])
    assert rows["oracle+entropy@10", "flops"]["cost"] == pytest.approx(subset["flops"].mean())
    for name, share in (("oracle+always", 1.0), ("oracle+never", 0.0)):  # on whatever prompts
        fixed = rows[name, "call_ratio"]
        assert (fixed["cost"], fixed["cost_low"], fixed["cost_high"]) == (share, share, share)


@pytest.mark.long
def test_a_duel_is_the_gap_between_two_interpolated_frontiers_on_the_same_samples():
    """Value, and every replicate's sign, by numpy's interp on explicitly resampled prompts."""
    counts = counts_of()
    result = {
        (d["router"], d["other_router"], d["call_ratio"]): d
        for d in frontiers.router_comparison_rows(counts, KNOWN, FIXED, seed=3)
    }
    wide = {name: subset.sort("prompt_id") for (name,), subset in counts.group_by("policy")}

    def gap(weight_P, at):
        heights = {}
        for router in ("entropy", "random"):
            names = ["oracle+never", f"oracle+{router}@10", f"oracle+{router}@30", "oracle+always"]
            x = [
                weight_P @ wide[n]["calls"].to_numpy() / (weight_P @ wide[n]["tokens"].to_numpy())
                for n in names
            ]
            y = [weight_P @ (wide[n]["verdict"] == "right").to_numpy() / weight_P.sum() for n in names]
            heights[router] = np.interp(at, x, y)
        return heights["entropy"] - heights["random"]

    weights_BP = np.concatenate([*intervals.resampled(np.eye(60), 3, 2000)])
    for at in (0.1, 0.3):
        gaps_B = np.array([gap(weight_P, at) for weight_P in weights_BP])
        row = result["entropy", "random", at]

        assert row["accuracy_difference"] == pytest.approx(gap(np.ones(60), at))
        assert row["win_probability"] == pytest.approx((gaps_B > 0).mean() + (gaps_B == 0).mean() / 2)
        assert row["accuracy_difference_low"] == pytest.approx(np.quantile(gaps_B, 0.025), abs=0.03)
        assert row["accuracy_difference_high"] == pytest.approx(np.quantile(gaps_B, 0.975), abs=0.03)
    assert set(result) == {
        (a, b, g) for a, b in (("entropy", "random"), ("random", "entropy")) for g in (0.1, 0.3)
    }


def test_a_duel_turned_around_is_its_own_mirror():
    """Differences change sign, ends change places, probabilities add up to one."""
    comparisons = frontiers.router_comparison_rows(counts_of(), KNOWN, FIXED, seed=1)
    rows = {(row["router"], row["call_ratio"]): row for row in comparisons}

    for budget in (0.1, 0.3):
        one, other = rows["entropy", budget], rows["random", budget]
        assert one["accuracy_difference"] == -other["accuracy_difference"]
        ends = one["accuracy_difference_low"], one["accuracy_difference_high"]
        assert ends == (-other["accuracy_difference_high"], -other["accuracy_difference_low"])
        assert one["win_probability"] + other["win_probability"] == 1


def test_a_router_against_its_like_wins_half_the_time():
    """The same verdicts and calls: no difference, and an interval that still covers prompts not seen."""
    counts = counts_of()
    entropy = counts.filter(pl.col("policy").str.contains("entropy"))
    alike = entropy.with_columns(pl.col("policy").str.replace("entropy", "random"))
    counts = pl.concat([counts.filter(~pl.col("policy").str.contains("random")), alike])
    rows = [*frontiers.router_comparison_rows(counts, KNOWN, FIXED, seed=1)]

    assert len(rows) == 4
    for row in rows:
        assert (row["accuracy_difference"], row["win_probability"]) == (0, 0.5)
        assert -0.1 < row["accuracy_difference_low"] < 0 < row["accuracy_difference_high"] < 0.1


@pytest.mark.filterwarnings("error")
def test_one_prompt_leaves_a_duel_open():
    """Nothing is left without it: any difference, and no warning of a division."""
    rows = [*frontiers.router_comparison_rows(counts_of(1), KNOWN, FIXED, seed=1)]

    assert rows
    assert {(row["accuracy_difference_low"], row["accuracy_difference_high"]) for row in rows} == {
        (-1.0, 1.0)
    }


def test_beyond_its_ends_a_frontier_says_nothing():
    """Without `never` and `always`, a budget that no policy reaches has no comparison."""
    counts = counts_of().filter(~pl.col("policy").is_in(["oracle+never", "oracle+always"]))
    budgets = {row["call_ratio"] for row in frontiers.router_comparison_rows(counts, KNOWN, FIXED, seed=1)}
    called = counts.filter(pl.col("policy").str.ends_with("@10"))
    most = max(subset["calls"].sum() / subset["tokens"].sum() for _, subset in called.group_by("policy"))

    assert (0.1 in budgets) == (most <= 0.1)
    rated = counts.with_columns(verdict=pl.lit(None, pl.String))
    assert not [*frontiers.router_comparison_rows(rated, KNOWN, FIXED, seed=1)]


def product_limit(kept_P, is_left_P, pos):
    """Kaplan and Meier's product, one time after the other."""
    share = 1.0
    for time in sorted(set(kept_P[is_left_P])):
        if time <= pos:
            share *= 1 - (is_left_P & (kept_P == time)).sum() / (kept_P >= time).sum()
    return share


@given(st.lists(st.tuples(st.integers(0, 12), st.booleans()), min_size=1, max_size=20))
def test_survival_is_the_product_limit(rows):
    """At every position, inside its interval; one where nobody leaves."""
    kept_P, is_left_P = (np.array(column) for column in zip(*rows, strict=True))
    is_left_P &= kept_P > 0  # the token at which a policy leaves is counted
    pos = np.arange(kept_P.max() + 1)
    result = off_policy.kaplan_meier(kept_P, is_left_P, pos)

    assert np.allclose(result.share, [product_limit(kept_P, is_left_P, p) for p in pos])
    assert result.at_risk.tolist() == [(kept_P > p).sum() for p in pos]
    known = np.isfinite(result.low) & np.isfinite(result.high)
    assert (result.low[known] <= result.share[known] + 1e-12).all()
    assert (result.share[known] <= result.high[known] + 1e-12).all()


@given(texts, texts)
def test_texts_differ_first_where_their_prefixes_do(one, other):
    """The longest common prefix, found by trying all; nowhere where it is the whole of a text."""
    shortest = min(len(one), len(other))
    shared = max(n for n in range(shortest + 1) if one[:n] == other[:n])
    expected = None if shared == shortest else shared

    assert divergence.first_difference(one, other) == expected


@given(texts, texts)
def test_texts_reunite_at_the_first_run_that_both_hold(one, other):
    """The smallest n such that five equal tokens begin within n tokens in both; 0 for equal texts."""
    run = divergence.RUN
    starts = [
        max(i, j)
        for i in range(len(one) - run + 1)
        for j in range(len(other) - run + 1)
        if one[i : i + run] == other[j : j + run]
    ]
    expected = 0 if one == other else min(starts, default=None)

    assert divergence.tokens_to_reconverge(one, other) == expected


def forks_of(rows: list[tuple], lengths: dict[str, int] | None = None) -> dict[str, dict]:
    """Policy to its divergence; a text is its answer but where `lengths` has that of a policy's."""
    texts = [
        {
            "policy": name,
            "prompt_id": prompt_id,
            "token_ids": ids,
            "entropies": [i / 4 for i in ids],
            "in_answer": [i < (lengths or {}).get(name, len(ids)) for i in range(len(ids))],
            "answer": answer,
        }
        for name, prompt_id, ids, answer in rows
    ]
    return {row["policy"]: row for row in divergence.divergence_rows(pl.DataFrame(texts), KNOWN)}


def test_an_answer_that_begins_another_diverges_where_the_text_does():
    """No divergence lies beyond the end of the policy's own answer, nor is that end one."""
    rows = [
        ("oracle+always", "p", [1, 2, 3, 7], "2"),
        ("oracle+never", "p", [1, 2, 4, 7], "2"),
        ("oracle+entropy@10", "p", [1, 2, 4, 8], "2"),
        ("oracle+entropy@30", "p", [1, 2], "2"),
    ]
    within = forks_of(rows, {"oracle+never": 2, "oracle+entropy@10": 3})
    beyond = forks_of(rows, {"oracle+always": 2, "oracle+never": 4, "oracle+entropy@10": 3})

    assert set(within) == {"oracle+entropy@10"}
    assert (within["oracle+entropy@10"]["pos"], within["oracle+entropy@10"]["entropy"]) == (2, 1.0)
    assert within["oracle+entropy@10"]["token_ids"] == [1, 2, 4]
    assert {policy: (event["pos"], event["tokens_to_reconverge"]) for policy, event in beyond.items()} == {
        "oracle+never": (2, None),
        "oracle+entropy@10": (2, 0),
    }


def test_a_fork_is_the_first_token_that_always_says_otherwise():
    """Position, entropy there, tokens until both say the same again, and whether the answers agree."""
    rows = [
        ("oracle+always", "p", [1, 2, 3, 4, 5, 6, 7, 8, 9], "42"),
        ("oracle+never", "p", [1, 0, 0, 4, 5, 6, 7, 8, 9], "42"),
        ("oracle+entropy@10", "p", [1, 2, 3, 4, 5, 6, 7, 8, 9], "42"),
        ("oracle+entropy@30", "p", [1, 2, 0, 0], None),
    ]
    result = forks_of(rows)

    assert set(result) == {"oracle+never", "oracle+entropy@30"}
    assert (result["oracle+never"]["pos"], result["oracle+never"]["entropy"]) == (1, 0.0)
    assert (result["oracle+never"]["tokens_to_reconverge"], result["oracle+never"]["same_answer"]) == (
        1,
        True,
    )
    assert (result["oracle+entropy@30"]["pos"], result["oracle+entropy@30"]["tokens_to_reconverge"]) == (
        2,
        None,
    )
    assert result["oracle+entropy@30"]["same_answer"] is None


def test_reunions_are_counted_by_entropy_and_by_router_and_equal_texts_once():
    """Shares of hand-made divergences; two policies with the same text make one event for `all`."""
    columns = ("router", "prompt_id", "entropy", "tokens_to_reconverge", "same_answer", "token_ids")
    reported = [
        ("a", "p", 0.1, 3, True, [1]),
        ("b", "p", 0.1, 3, True, [1]),
        ("a", "q", 0.2, None, None, [2]),
        ("a", "r", 3.0, 9, False, [3]),
    ]
    divergences = pl.DataFrame(reported, schema=columns, orient="row")
    divergences = divergences.with_columns(method=pl.lit("oracle"), policy=pl.lit("x"))
    rows = {
        (r["router"], r["entropy_low"], r["window"]): r
        for r in divergence.reconvergence_rows(divergences, seed=1)
    }

    assert {key[:2] for key in rows} == {("a", 0.0), ("b", 0.0), ("all", 0.0), ("all", 2.0)}
    assert (rows["a", 0.0, 4]["events"], rows["a", 0.0, 4]["reconverged_share"]) == (3, pytest.approx(1 / 3))
    assert rows["a", 0.0, 16]["reconverged_share"] == pytest.approx(2 / 3)
    assert rows["a", 0.0, 16]["same_answer"] == 0.5
    assert (rows["all", 0.0, 4]["events"], rows["all", 0.0, 4]["reconverged_share"]) == (2, 0.5)
    assert (rows["all", 2.0, 4]["reconverged_share"], rows["all", 2.0, 16]["reconverged_share"]) == (0, 1)
    for row in rows.values():
        assert row["reconverged_share_low"] <= row["reconverged_share"] <= row["reconverged_share_high"]


mismatches = st.lists(st.lists(st.booleans(), min_size=1, max_size=12), min_size=1, max_size=5)


@given(mismatches, st.integers(1, 6))
def test_drafting_by_prompt_adds_up_the_rounds_of_its_texts(reported, k):
    """Tokens, rounds and accepted drafts of each prompt are those of its text drafted alone."""
    mismatch_N = np.concatenate(reported)
    prompt_N = np.repeat(np.arange(len(reported)), [len(text) for text in reported])
    result = drafting.draft(mismatch_N, prompt_N, prompt_N, k)

    for p, text in enumerate(reported):
        alone = costs.speculative_rounds(np.array(text), np.zeros(len(text), int), k)
        assert result.tokens_P[p] == len(text)
        assert result.rounds_P[p] == len(alone.text_R)
        assert result.accepted_P[p] == alone.accepted_R.sum()
        assert result.drafter_P[p] == costs.drafter_positions(alone).sum()


def test_speed_up_has_the_limits_that_it_must_have():
    """A free drafter gives tokens per pass; one never wrong K + 1 of them; a useless one less than 1."""
    rng = np.random.default_rng(0)
    mismatch_N, prompt_N = rng.random(6000) < 0.2, np.repeat(np.arange(100), 60)
    drafted = drafting.draft(mismatch_N, prompt_N, prompt_N, 3)
    perfect = drafting.draft(np.zeros(6000, bool), prompt_N, prompt_N, 3)
    useless = drafting.draft(np.ones(6000, bool), prompt_N, prompt_N, 3)
    # independent acceptance: (1 - a^(K+1)) / (1 - a) tokens a round, arXiv 2211.17192, eq. 1
    expected = (1 - 0.8**4) / (1 - 0.8)

    assert drafting.speed_up(drafted, 0.0, seed=1) == drafting.tokens_per_pass(drafted, seed=1)
    assert drafting.tokens_per_pass(drafted, seed=1).value == pytest.approx(expected, rel=0.03)
    assert drafting.tokens_per_pass(perfect, seed=1).value == 4
    assert drafting.tokens_per_pass(useless, seed=1).value == 1
    assert drafting.speed_up(useless, 0.1, seed=1).value == pytest.approx(1 / 1.3, rel=0.01)
    values = [drafting.speed_up(drafted, c, seed=1).value for c in (0.01, 0.1, 0.5, 1.0)]
    assert values == sorted(values, reverse=True)


@pytest.mark.parametrize("is_mismatch", [False, True])
@pytest.mark.parametrize("prompts", [1, 20])
def test_drafting_without_spread_lies_between_what_a_round_can_do(prompts, is_mismatch):
    """A round keeps 0 to K drafts and writes 1 to K + 1 tokens: one prompt leaves all of that open."""
    prompt_N = np.repeat(np.arange(prompts), 12)
    for k in (1, 3, 5):
        drafted = drafting.draft(np.full(12 * prompts, is_mismatch), prompt_N, prompt_N, k)
        for result, low, high in (
            (drafting.accepted_length(drafted, seed=1), 0, k),
            (drafting.tokens_per_pass(drafted, seed=1), 1, k + 1),
            (drafting.speed_up(drafted, 0.2, seed=1), 1 / (1 + k * 0.2), k + 1),
        ):
            share = 1 if prompts == 1 else intervals.wilson(0, prompts).high
            assert result.low == pytest.approx(result.value - share * (result.value - low))
            assert result.high == pytest.approx(result.value + share * (high - result.value))
            assert low - 1e-9 <= result.low < result.high <= high


def test_what_nothing_bounds_is_null():
    """One prompt says nothing of what the next will cost; its call ratio is a share."""
    rows = [*frontiers.frontier_rows(counts_of(1), KNOWN, FIXED, seed=3)]
    ends = {(row["policy"], row["cost_axis"]): (row["cost_low"], row["cost_high"]) for row in rows}

    routed = [name for name in KNOWN if name not in ("oracle+always", "oracle+never")]  # which fix it
    assert {ends[name, "call_ratio"] for name in routed} == {(0.0, 1.0)}
    assert {ends[name, "flops"] for name in KNOWN} == {(None, None)}
    assert ends["oracle+always", "large_tokens_processed"] == (None, None)  # two a token
    assert all(np.isfinite(row["cost"]) for row in rows)


def test_acceptance_is_one_less_mismatches_and_lies_in_the_certified_bounds():
    """Greedy from the bits, sampled from the bounds, each the mean over answer tokens."""
    rng = np.random.default_rng(1)
    low_N = rng.uniform(0, 0.9, 200)
    rows = pl.DataFrame(
        {
            "prompt_id": np.repeat([f"p{i}" for i in range(20)], 10),
            "in_answer": [True] * 200,
            "mismatch": rng.random(200) < 0.3,
            "acceptance_low": low_N,
            "acceptance_high": low_N + 0.05,
        }
    )
    greedy, sampled = drafting.acceptance_rows(rows, seed=2)

    assert greedy["rate"] == greedy["rate_upper"] == pytest.approx(1 - rows["mismatch"].mean())
    assert sampled["rate"] == pytest.approx(low_N.mean())
    assert sampled["rate_upper"] == pytest.approx(low_N.mean() + 0.05)
    assert sampled["rate_low"] < sampled["rate"] < sampled["rate_upper"] < sampled["rate_high"]
