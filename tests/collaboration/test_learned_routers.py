"""Tests of `learned_routers`: chances are scikit-learn's, and as high as mismatches are frequent."""

import json

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GroupKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC

from fsgen.collaboration import learned_routers, route, router_input
from fsgen.collaboration.calibration import CalibratedRouter
from fsgen.collaboration.learned_routers import TrainingSet, _sampled
from fsgen.collaboration.route import _DumpedRecords, _warn_of_reversed_ranking
from fsgen.collaboration.router_input import RouterInput
from fsgen.config.policies import parse_policy
from fsgen.errors import UserError


def speakers_of(rng, tokens: int, width: int = 4) -> RouterInput:
    """Records of random distributions over twelve tokens, some sharp and some flat."""
    logits_NV = -np.sort(-rng.normal(0, rng.uniform(0.2, 3, (tokens, 1)), (tokens, 12)), axis=1)
    p_NV = np.exp(logits_NV) / np.exp(logits_NV).sum(axis=1, keepdims=True)
    entropy_N = -(p_NV * np.log(p_NV)).sum(axis=1)
    columns = (logits_NV[:, :width], np.log(np.exp(logits_NV).sum(axis=1)), entropy_N)
    return RouterInput(*(column.astype(np.float32) for column in columns))


FITTERS = {"logistic": learned_routers.fit_logistic, "svm": learned_routers.fit_svm}


def lesson_of(seed: int = 0, prompts: int = 40, tokens: int = 30, easy: float = 3.0):
    """A world in which a mismatch is likelier where entropy is high, and rare on the whole."""
    rng = np.random.default_rng(seed)
    seen = speakers_of(rng, prompts * tokens)
    chance_N = 1 / (1 + np.exp(easy - 1.5 * seen.entropy_N))
    mismatch_N = rng.random(len(chance_N)) < chance_N
    prompt_N = np.repeat([f"p{i:03d}" for i in range(prompts)], tokens)
    return TrainingSet(learned_routers.features(seen), mismatch_N, prompt_N), seen, chance_N


def gate_of(rule: str, fitted: learned_routers.FittedRouter) -> CalibratedRouter:
    """The router after a journey through JSON, as rollouts get it."""
    reported = json.loads(json.dumps({name: array.tolist() for name, array in fitted.weights.items()}))
    return CalibratedRouter(rule, 0.5, {name: np.array(values) for name, values in reported.items()})


def test_features_are_the_probabilities_and_the_entropy():
    """Falling probabilities of a softmax, and nats."""
    seen = speakers_of(np.random.default_rng(1), 50)
    found_NF = learned_routers.features(seen)

    assert found_NF.shape == (50, 5)
    assert (np.diff(found_NF[:, :4], axis=1) <= 0).all()
    assert np.array_equal(found_NF[:, 4], seen.entropy_N)
    assert (found_NF[:, :4].sum(axis=1) < 1).all()


def test_logistic_is_scikit_learns_own_after_a_journey_through_json():
    """Scores of the saved numbers are predict_proba of the fitted pipeline."""
    training, seen, _ = lesson_of()
    pipeline = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
    expected_N = pipeline.fit(training.feature_NF, training.mismatch_N).predict_proba(training.feature_NF)[
        :, 1
    ]

    assert np.allclose(gate_of("logistic", learned_routers.fit_logistic(training, 0)).score(seen), expected_N)


def test_svm_is_scikit_learns_decision_through_a_sigmoid_of_held_out_decisions():
    """Support vectors, kernel and Platt's sigmoid, rebuilt step by step with other calls."""
    training, seen, _ = lesson_of(prompts=12)
    pipeline = make_pipeline(StandardScaler(), SVC(C=1.0, gamma="auto"))
    held_out_N = np.empty(len(training.mismatch_N))
    for learn, test in GroupKFold(5).split(training.feature_NF, groups=training.prompt_N):
        pipeline.fit(training.feature_NF[learn], training.mismatch_N[learn])
        held_out_N[test] = pipeline.decision_function(training.feature_NF[test])
    platt = LogisticRegression(C=np.inf).fit(held_out_N[:, None], training.mismatch_N)
    decision_N = pipeline.fit(training.feature_NF, training.mismatch_N).decision_function(training.feature_NF)
    fitted = learned_routers.fit_svm(training, 0)

    expected_N = platt.predict_proba(decision_N[:, None])[:, 1]
    assert np.allclose(gate_of("svm", fitted).score(seen), expected_N, atol=1e-5)


@pytest.mark.parametrize("rule", FITTERS)
def test_chances_have_the_real_share_of_mismatches(rule):
    """On fresh prompts the mean chance is the base rate, in each half of the scores too: no rebalancing.

    A balanced sample would say 0.5 on average; Platt's sigmoid cannot bend as the truth does here.
    """
    training, _, _ = lesson_of(prompts=80, easy=5.0)
    _, fresh, chance_N = lesson_of(seed=1, prompts=80, easy=5.0)
    score_N = gate_of(rule, FITTERS[rule](training, 0)).score(fresh)
    is_high_N = score_N > np.median(score_N)

    assert 0.05 < training.mismatch_N.mean() < 0.25
    for part_N in (is_high_N, ~is_high_N):
        assert score_N[part_N].mean() == pytest.approx(
            chance_N[part_N].mean(), abs=0.03 if rule == "logistic" else 0.06
        )
    assert score_N.mean() == pytest.approx(chance_N.mean(), abs=0.02)


@pytest.mark.parametrize("rule", FITTERS)
def test_a_score_depends_on_its_own_row_alone_to_the_bit(rule):
    """Simulation scores a table at once, a rollout a few branches at a time."""
    training, seen, _ = lesson_of(prompts=10)
    router = gate_of(rule, FITTERS[rule](training, 0))
    whole_N = router.score(seen)
    parts_N = np.concatenate([router.score(seen.take(rows)) for rows in np.array_split(np.arange(300), 47)])

    assert np.array_equal(whole_N, parts_N)


def test_memory_is_cut_into_pieces_without_a_change(monkeypatch):
    """A few rows at a time give the very same chances."""
    training, seen, _ = lesson_of(prompts=10)
    router = gate_of("svm", learned_routers.fit_svm(training, 0))
    whole_N = router.score(seen)
    monkeypatch.setattr(learned_routers, "AT_ONCE", 2000)

    assert np.array_equal(whole_N, router.score(seen))


def test_the_svm_learns_from_whole_sampled_prompts_up_to_its_cap(monkeypatch):
    """Never part of a prompt, the same ones for the same seed, and it says how many."""
    monkeypatch.setattr(learned_routers, "SVM_TOKENS", 250)
    training, _, _ = lesson_of(prompts=20)
    taken_N, again_N, other_N = (_sampled(training.prompt_N, seed) for seed in (1, 1, 2))
    fitted = learned_routers.fit_svm(training, 1)

    assert (fitted.prompts, fitted.tokens) == (8, 240)
    assert fitted.mismatches == training.mismatch_N[taken_N].sum()
    assert {30} == set(np.unique(training.prompt_N[taken_N], return_counts=True)[1])
    assert np.array_equal(taken_N, again_N)
    assert not np.array_equal(taken_N, other_N)


@pytest.mark.parametrize("rule", FITTERS)
def test_nothing_to_learn_is_a_complaint(rule):
    """Without a mismatch there is no router, and from a single prompt no machine with honest chances."""
    training, _, _ = lesson_of(prompts=10)
    none = training._replace(mismatch_N=np.zeros_like(training.mismatch_N))
    with pytest.raises(UserError, match=r"needs matches and mismatches .* got 0 mismatches among 300 tokens"):
        FITTERS[rule](none, 0)

    alone = training._replace(prompt_N=np.repeat("p", len(training.prompt_N)))
    with pytest.raises(UserError, match=r"on two calibration prompts at least, got .* of 1 prompts"):
        learned_routers.fit_svm(alone, 0)


@pytest.mark.parametrize("name", ["oracle+logistic@20", "proxy+svm@30"])
def test_the_router_that_the_loop_sees_spends_its_budget_on_calibration_tokens(name, finished):
    """No other threshold comes nearer to it."""
    policy = parse_policy(name, finished.methods, finished.routers)
    router = route.open_calibrated_router(finished, "duo", "toy", policy)
    known = _DumpedRecords.open(finished, "duo", "toy", "calibration")
    rows = known.rows_of(policy.method).filter("in_answer")
    score_N = router.score(router_input.router_input(rows, finished.dump.min_top_k))
    reached_N = [(score_N >= cut).mean() for cut in [*score_N, np.inf]]

    assert len(np.unique(score_N)) > len(score_N) / 2
    assert abs((score_N > router.threshold).mean() - policy.budget) == min(
        abs(np.array(reached_N) - policy.budget)
    )


def test_a_machine_that_learnt_nothing_is_named(capsys):
    """Labels that one prompt has the other way round than the other: held-out decisions rank upside down."""
    seen = speakers_of(np.random.default_rng(0), 200)
    is_high_N = seen.entropy_N > np.median(seen.entropy_N)
    prompt_N = np.repeat(["a", "b"], 100)
    training = TrainingSet(learned_routers.features(seen), is_high_N ^ (prompt_N == "b"), prompt_N)
    _warn_of_reversed_ranking("duo on toy", {"oracle+svm": learned_routers.fit_svm(training, 0)})
    _warn_of_reversed_ranking("duo on toy", {"oracle+svm": learned_routers.fit_svm(lesson_of()[0], 0)})
    reported = capsys.readouterr().err

    assert reported.count("duo on toy: oracle+svm does not generalise") == 1
