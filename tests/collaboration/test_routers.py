"""Tests of `routers`: scores are those of the softmax, budgets are kept, draws belong to positions.

Shape legend: N positions, V vocabulary.
"""

import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from fsgen.collaboration import routers
from fsgen.collaboration.calibration import (
    CalibratedRouter,
    Calibration,
    calibrated_router,
    read_calibration,
    threshold_for_budget,
    write_calibrations,
)
from fsgen.collaboration.learned_routers import FittedRouter
from fsgen.collaboration.router_input import RouterInput
from fsgen.config import registry
from fsgen.config.policies import Policy, RouterConfig
from fsgen.errors import UserError

budgets = st.integers(1, 99).map(lambda percent: percent / 100)
tied_scores = st.lists(st.integers(0, 5), min_size=1, max_size=40)
distinct_scores = st.lists(st.floats(0, 12, width=32), min_size=1, max_size=40, unique=True)
logits = arrays.arrays(
    np.float32,
    st.tuples(st.integers(1, 8), st.integers(2, 9)),
    elements=st.floats(-12, 12, width=32),
    fill=st.nothing(),
)


ROUTERS = {name: registry.resolve(registry.ROUTERS, name, "the routers") for name in registry.ROUTERS}
SCORED = [name for name, router in ROUTERS.items() if router.score]
STANDARD = {"mean": [0.0, 0.0, 0.0], "scale": [1.0, 1.0, 20.0]}
LINE = STANDARD | {"coefficients": [0.0, 0.0, 3.0], "intercept": -2.0}
NEAR = {"support": [[1.0, 0.0, -1.0]], "dual": [-1.0], "gamma": 0.3, "intercept": 0.0}
MACHINE = STANDARD | NEAR | {"slope": 1.0, "offset": 0.0}


def softmax(logits_NV):
    weights_NV = np.exp(logits_NV.astype(np.float64))
    return weights_NV / weights_NV.sum(axis=1, keepdims=True)


def seen_of(logits_NV):
    """The record of these logits, in float32 as it is stored."""
    p_NV, ranked_NV = softmax(logits_NV), -np.sort(-logits_NV, axis=1)
    logsumexp_N = np.log(np.exp(logits_NV.astype(np.float64)).sum(axis=1)).astype(np.float32)
    entropy_N = -(p_NV * np.log(p_NV)).sum(axis=1).astype(np.float32)
    return RouterInput(ranked_NV, logsumexp_N, entropy_N)


def seen_with(rule, scores):
    """Records on which the router of `rule` has these scores, in their order if not in their unit."""
    scores_N, zeros_N = np.array(scores, dtype=np.float32), np.zeros(len(scores), dtype=np.float32)
    # the second token at -inf, so that both probability and margin fall as the normaliser grows
    top_N2 = np.column_stack([zeros_N, zeros_N - np.inf])
    if rule in ("max_probability", "margin"):
        return RouterInput(top_N2, scores_N, zeros_N)
    return RouterInput(top_N2, zeros_N, scores_N)


def made_calls(calibrated, seen):
    nothing_N = np.zeros(len(seen.entropy_N))
    return calibrated.decide(seen, nothing_N, nothing_N.astype(bool))


def gate_with(rule, cut=None):
    """A gate of this rule; a learned one has learned that doubt grows with the entropy."""
    weights = {"logistic": LINE, "svm": MACHINE}.get(rule, {})
    return CalibratedRouter(rule, cut, {name: np.array(value) for name, value in weights.items()})


def chance_calls(calibrated, chance_N, mismatch_N):
    return calibrated.decide(seen_with("entropy", np.zeros(len(chance_N))), chance_N, mismatch_N)


@given(logits)
def test_scores_are_those_of_the_softmax(logits_NV):
    """Top probability, gap to the second and entropy equal a softmax in double, up to float32 records."""
    seen = seen_of(logits_NV)
    p_NV = softmax(logits_NV)
    ranked_NV = -np.sort(-p_NV, axis=1)

    assert np.allclose(routers.max_probability(seen), ranked_NV[:, 0], atol=1e-5)
    assert np.allclose(routers.margin(seen), ranked_NV[:, 0] - ranked_NV[:, 1], atol=1e-5)
    assert np.allclose(routers.entropy(seen), -(p_NV * np.log(p_NV)).sum(axis=1), atol=1e-5)


@given(logits)
def test_the_authors_delta_threshold_is_a_margin_of_two_fifths(logits_NV):
    """Half the margin below 0.2 and the margin below 0.4 pick the same positions."""
    p_NV = -np.sort(-softmax(logits_NV), axis=1)
    half_N = (p_NV[:, 0] - p_NV[:, 1]) / 2
    clear_N = np.abs(half_N - 0.2) > 1e-5  # float32 records decide no closer

    called_N = made_calls(CalibratedRouter("margin", 0.4), seen_of(logits_NV))

    assert np.array_equal(called_N[clear_N], (half_N < 0.2)[clear_N])


@pytest.mark.parametrize("rule", SCORED)
def test_doubt_calls_and_a_score_on_the_threshold_does_not(rule):
    """Three positions of falling certainty, the second right on the threshold."""
    seen = seen_with(rule, [0.25, 0.5, 1.0])
    cut = gate_with(rule).score(seen)[1]

    assert made_calls(gate_with(rule, cut), seen).tolist() == [False, False, True]


@pytest.mark.parametrize("rule", SCORED)
@given(scores=distinct_scores, budget=budgets)
def test_without_ties_the_budget_is_spent_to_the_position(rule, scores, budget):
    """The rounded share of the calibration positions is called, and none of them sits on the threshold."""
    # quarters of a nat stay apart as probabilities, on whose scale floats would run into each other
    ranks = np.argsort(np.argsort(scores)) / 4
    seen = seen_with(rule, scores if rule == "entropy" else ranks)
    score_N = gate_with(rule).score(seen)

    cut = threshold_for_budget(score_N, budget, gate_with(rule).router.calls_below)

    assert round(budget * len(scores)) == made_calls(gate_with(rule, cut), seen).sum()
    assert cut not in score_N.tolist()


@pytest.mark.parametrize("rule", SCORED)
@given(scores=tied_scores, budget=budgets)
def test_with_ties_no_threshold_comes_nearer_to_the_budget(rule, scores, budget):
    """The number called is one of those that a cut between tied groups can give, and the nearest."""
    seen = seen_with(rule, scores)
    wanted = round(budget * len(scores))
    uncertainty = sorted(scores, reverse=True)  # high scores of seen_with mean doubt for every rule
    possible = {0, len(scores)} | {
        i for i in range(1, len(uncertainty)) if uncertainty[i] != uncertainty[i - 1]
    }

    cut = threshold_for_budget(gate_with(rule).score(seen), budget, gate_with(rule).router.calls_below)

    called_N = made_calls(gate_with(rule, cut), seen)
    assert called_N.sum() in possible
    assert min(abs(count - wanted) for count in possible) == abs(called_N.sum() - wanted)
    assert min(np.array(scores)[called_N], default=math.inf) > max(
        np.array(scores)[~called_N], default=-math.inf
    )


@pytest.mark.parametrize("rule", SCORED)
def test_equal_scores_are_called_all_or_not_at_all(rule):
    """A budget below half spares them, one above half calls them."""
    seen = seen_with(rule, [2.0] * 10)

    score_N = gate_with(rule).score(seen)

    few, many = (
        made_calls(
            gate_with(rule, threshold_for_budget(score_N, budget, gate_with(rule).router.calls_below)), seen
        )
        for budget in (0.3, 0.7)
    )

    assert not few.any()
    assert many.all()


def test_nothing_to_calibrate_on_is_a_complaint():
    """No position, no threshold."""
    with pytest.raises(UserError, match="No calibration position"):
        threshold_for_budget(np.array([]), 0.2, calls_below=False)


def test_draws_are_uniform_over_prompts_and_positions():
    """Mean, variance, tenths and neighbours of 200 000 draws are those of independent uniform numbers."""
    prompts_N = np.repeat([f"toy-{i:04d}" for i in range(400)], 500)
    chance_N = routers.position_uniforms(7, prompts_N, np.tile(np.arange(500), 400))

    assert 0 <= chance_N.min() < chance_N.max() < 1
    assert chance_N.mean() == pytest.approx(1 / 2, abs=0.003)
    assert chance_N.var() == pytest.approx(1 / 12, abs=0.001)
    assert np.abs(np.histogram(chance_N, bins=10, range=(0, 1))[0] / 20_000 - 1).max() < 0.03
    assert abs(np.corrcoef(chance_N[:-1], chance_N[1:])[0, 1]) < 0.01
    assert abs(np.corrcoef(chance_N[:-500], chance_N[500:])[0, 1]) < 0.01


@given(
    st.lists(st.tuples(st.sampled_from("abcdef"), st.integers(0, 4000)), min_size=1, max_size=30), st.data()
)
def test_a_draw_depends_on_its_own_prompt_and_position_alone(rows, data):
    """Any part of the rows, in any order, gets the draws that it had among all."""
    prompts_N, pos_N = (np.array(column) for column in zip(*rows, strict=True))
    picked = data.draw(st.lists(st.integers(0, len(rows) - 1), min_size=1, max_size=30))

    chance_N = routers.position_uniforms(7, prompts_N, pos_N)

    again_N = routers.position_uniforms(7, prompts_N[picked].astype(object), pos_N[picked].astype(np.int32))
    assert np.array_equal(chance_N[picked], again_N)


def test_another_seed_is_another_draw():
    """No position keeps its number."""
    prompts_N, pos_N = np.repeat(["a", "b"], 500), np.tile(np.arange(500), 2)

    assert not (
        routers.position_uniforms(1, prompts_N, pos_N) == routers.position_uniforms(2, prompts_N, pos_N)
    ).any()


@given(st.floats(0, 1), st.floats(0, 1))
def test_random_at_a_larger_rate_calls_wherever_it_called_before(one, other):
    """Rates share their draws, and each is met to within three hundredths."""
    chance_N = routers.position_uniforms(7, np.repeat("toy", 4000), np.arange(4000))
    mismatch_N = np.zeros(4000, dtype=bool)
    fewer_N, more_N = (
        chance_calls(CalibratedRouter("random", rate), chance_N, mismatch_N) for rate in sorted([one, other])
    )

    assert not (fewer_N & ~more_N).any()
    assert more_N.mean() == pytest.approx(max(one, other), abs=0.03)


def test_perfect_calls_at_mismatches_only():
    """All of them without a budget, with one those whose draw lies below it, as `random` everywhere."""
    mismatch_N = np.array([True, False, True, False, True])
    chance_N = np.array([0.1, 0.1, 0.5, 0.9, 0.999])

    assert chance_calls(CalibratedRouter("perfect"), chance_N, mismatch_N).tolist() == mismatch_N.tolist()
    assert (
        chance_calls(CalibratedRouter("perfect", 1.0), chance_N, mismatch_N).tolist() == mismatch_N.tolist()
    )
    some_N = chance_calls(CalibratedRouter("perfect", 0.5), chance_N, mismatch_N)
    assert some_N.tolist() == [True, False, False, False, False]
    assert chance_calls(CalibratedRouter("random", 0.5), chance_N, mismatch_N).tolist() == [1, 1, 0, 0, 0]


def test_always_calls_and_never_does_not():
    """Whatever is seen."""
    mismatch_N, chance_N = np.array([True, False]), np.array([0.0, 0.9])

    assert chance_calls(CalibratedRouter("always"), chance_N, mismatch_N).tolist() == [True, True]
    assert chance_calls(CalibratedRouter("never"), chance_N, mismatch_N).tolist() == [False, False]


def test_a_gate_takes_its_cut_from_the_router_or_from_calibration(tiny_world):
    """Without a budget the router's own `at`, with one what calibration found, else a complaint."""
    plain = Policy(name="oracle+margin", method="oracle", router="margin")
    bound = Policy(name="oracle+margin@20", method="oracle", router="margin", budget=0.2)

    assert calibrated_router(plain, tiny_world.routers, {}, {}) == CalibratedRouter("margin", 0.4)
    assert calibrated_router(bound, tiny_world.routers, {bound.name: 0.25}, {}) == CalibratedRouter(
        "margin", 0.25
    )
    with pytest.raises(UserError, match=r"'oracle\+margin@20' has no calibrated threshold"):
        calibrated_router(bound, tiny_world.routers, {plain.name: 0.25}, {})


def test_a_router_is_known_by_its_rule_and_always_needs_no_entry(tiny_world):
    """Two entries of one rule differ in their cut alone; `+always` exists in every project."""
    tiny_world.routers["strict"] = RouterConfig(rule="margin", threshold=0.9)
    del tiny_world.routers["always"]

    strict = calibrated_router(
        Policy(name="oracle+strict", method="oracle", router="strict"), tiny_world.routers, {}, {}
    )
    always = calibrated_router(
        Policy(name="oracle+always", method="oracle", router="always"), tiny_world.routers, {}, {}
    )

    assert strict == CalibratedRouter("margin", 0.9)
    assert always == CalibratedRouter("always")


def test_what_a_router_needs_and_fixes_follows_from_its_decision():
    """A constant router looks at nothing and fixes its calls; `perfect` alone needs the fused token."""
    assert {name for name, router in ROUTERS.items() if router.is_constant} == {"always", "never"}
    assert all(("calls" in router.fixed_counts) == router.is_constant for router in ROUTERS.values())
    assert [name for name, router in ROUTERS.items() if routers.FUSED_TOKEN in router.needs] == ["perfect"]
    assert {name for name, router in ROUTERS.items() if not router.needs_threshold} == {
        *("always", "never", "perfect")
    }


def test_calibrated_routers_survive_the_file(tiny_world):
    """What `route` writes is read back with the same thresholds, weights and decisions."""
    weights = {name: np.array(value) for name, value in LINE.items()}
    fits = {"oracle+logistic": FittedRouter(weights, prompts=3, tokens=50, mismatches=9)}
    routers_by_policy = {
        "oracle+always": CalibratedRouter("always"),
        "oracle+entropy@20": CalibratedRouter("entropy", 1 / 3),
        "oracle+logistic@20": CalibratedRouter("logistic", 0.1, weights),
    }
    folder = Path("data/routes/duo")
    folder.mkdir(parents=True)
    write_calibrations(folder, {"toy": Calibration(routers_by_policy, fits)})

    again = read_calibration("duo", "toy")

    assert {name: router.fingerprint() for name, router in again.routers.items()} == {
        name: router.fingerprint() for name, router in routers_by_policy.items()
    }
    assert again.fits["oracle+logistic"].to_json() == fits["oracle+logistic"].to_json()
    with pytest.raises(
        UserError, match=r"should hold routers for 'gsm8k', got none; run 'dvc repro route@duo'"
    ):
        read_calibration("duo", "gsm8k")
