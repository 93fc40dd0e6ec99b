"""Tests of `positions` and `projections`: bins hold every token, regressions return the truth."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fsgen.analysis.uncertainty import positions, projections


@pytest.mark.long
@settings(deadline=None)
@given(st.lists(st.integers(1, 30), min_size=1, max_size=6), st.data())
def test_bins_of_either_scale_hold_every_token_once(lengths, data):
    """Counts and rates recounted; edges are where they say."""
    prompt_N = np.repeat(np.arange(len(lengths)), lengths)
    pos_N = np.concatenate([np.arange(n) for n in lengths])
    mismatch_N = np.array(data.draw(st.lists(st.booleans(), min_size=len(pos_N), max_size=len(pos_N))))
    entropy_N = np.linspace(0, 1, len(pos_N))
    scales = {
        "absolute": (pos_N, positions.doubling_edges(pos_N)),
        "relative": (positions.relative(pos_N, prompt_N), positions.TENTHS),
    }
    for at_N, edges in scales.values():
        result = positions.by_position(at_N, edges, entropy_N, mismatch_N, prompt_N, seed=1)
        assert sum(subset.tokens for subset in result) == len(pos_N)
        assert sum(subset.mismatches for subset in result) == mismatch_N.sum()
        for subset in result:
            inside = (subset.low <= at_N) & (at_N < subset.high)
            assert subset.tokens == inside.sum()
            assert subset.rate.value == pytest.approx(mismatch_N[inside].mean())
            assert subset.mean_entropy == pytest.approx(entropy_N[inside].mean())


@pytest.mark.parametrize("length", [1, 7, 10, 20, 30, 400, 1999, 2000])
def test_tenths_of_a_text_are_those_of_integers(length):
    """Token i of n lies in tenth 10 i // n: one at 3 of 10 in [0.3, 0.4), as its edges say."""
    prompt_N, pos_N = np.zeros(length, dtype=int), np.arange(length)
    at_N = positions.relative(pos_N, prompt_N)
    result = positions.by_position(at_N, positions.TENTHS, pos_N, pos_N % 2 == 0, prompt_N, seed=1)
    tenths, counts = np.unique(10 * pos_N // length, return_counts=True)

    assert [subset.low for subset in result] == [tenth / 10 for tenth in tenths]
    assert [subset.tokens for subset in result] == counts.tolist()


def test_edges_double_beyond_the_last_position():
    """0, 1, 2, 4, 8: bins of 1, 1, 2, 4 tokens."""
    assert positions.doubling_edges(np.arange(8)).tolist() == [0, 1, 2, 4, 8]
    assert positions.doubling_edges(np.arange(9)).tolist() == [0, 1, 2, 4, 8, 16]
    assert positions.doubling_edges(np.array([0])).tolist() == [0, 1]


def test_relative_places_count_the_rows_of_each_text_in_any_order():
    """Positions with gaps (forced tokens) and rows out of order."""
    prompt_N = np.array(["b", "a", "b", "a", "a", "a"])
    pos_N = np.array([9, 7, 2, 0, 1, 3])

    assert positions.relative(pos_N, prompt_N).tolist() == [0.5, 0.75, 0.0, 0.0, 0.25, 0.5]


def world(seed, prompts=200, tokens=40, spread=0.0):
    """Tokens whose log odds of a mismatch are -2 + 1.2 entropy - 0.4 position, plus the prompt's own."""
    rng = np.random.default_rng(seed)
    prompt_N = np.repeat(np.arange(prompts), tokens)
    own_P = rng.normal(0, spread, prompts)
    place_N = np.log2(1 + np.tile(np.arange(tokens), prompts))
    entropy_N = rng.exponential(1.0, len(prompt_N))
    odds_N = -2 + 1.2 * entropy_N - 0.4 * place_N + own_P[prompt_N]
    mismatch_N = rng.random(len(prompt_N)) < 1 / (1 + np.exp(-odds_N))
    return {"place": place_N, "entropy": entropy_N}, mismatch_N, prompt_N


def test_a_regression_returns_the_coefficients_that_made_the_data():
    """Within its own interval, and the odds ratio is the exponential."""
    position, entropy = positions.effects(*world(0))

    assert (position.term, entropy.term) == ("place", "entropy")
    assert position.coefficient == pytest.approx(-0.4, abs=0.08)
    assert entropy.coefficient == pytest.approx(1.2, abs=0.1)
    for effect, truth in ((position, -0.4), (entropy, 1.2)):
        assert effect.odds_ratio.value == pytest.approx(np.exp(effect.coefficient))
        assert effect.odds_ratio.low < np.exp(truth) < effect.odds_ratio.high


def test_intervals_know_that_tokens_of_a_prompt_depend_on_each_other():
    """A regressor that is the prompt's own has a far wider interval than if each token were a prompt."""
    rng = np.random.default_rng(7)
    regressors, mismatch_N, prompt_N = world(1, prompts=60, spread=1.5)
    regressors["own"] = rng.normal(size=60)[prompt_N]
    *_, clustered = positions.effects(regressors, mismatch_N, prompt_N)
    *_, naive = positions.effects(regressors, mismatch_N, np.arange(len(prompt_N)))
    widths = [np.log(e.odds_ratio.high / e.odds_ratio.low) for e in (clustered, naive)]

    assert clustered.coefficient == pytest.approx(naive.coefficient)
    assert widths[0] > 2 * widths[1]


def test_what_is_not_determined_has_no_effects():
    """A constant regressor, one that is another, outcomes that are separated, a single prompt."""
    regressors, mismatch_N, prompt_N = world(2, prompts=10)
    constant = regressors | {"one": np.ones(len(prompt_N))}
    twice = regressors | {"again": 2 * regressors["place"]}

    assert positions.effects(regressors, mismatch_N, prompt_N)
    for subset in (constant, twice):
        assert positions.effects(subset, mismatch_N, prompt_N) == []
    assert positions.effects(regressors, regressors["entropy"] > 1, prompt_N) == []
    assert positions.effects(regressors, mismatch_N, np.zeros(len(prompt_N))) == []


def test_a_sample_takes_whole_prompts_once():
    """No token twice, none without the others of its prompt, at most the cap, the same for the same seed."""
    prompt_N = np.repeat(np.arange(90), 17)
    taken_N = projections.sample(prompt_N, seed=4)

    assert taken_N.sum() == projections.TOKENS // 17 * 17
    assert {17} == set(np.unique(prompt_N[taken_N], return_counts=True)[1])
    assert np.array_equal(taken_N, projections.sample(prompt_N, seed=4))
    assert not np.array_equal(taken_N, projections.sample(prompt_N, seed=5))
    assert projections.sample(np.repeat(["long", "longer"], [1500, 1600]), seed=4).sum() in (1500, 1600)


def test_views_are_the_same_again_and_keep_near_tokens_near():
    """Two groups of distributions: the plane separates them in both views, to the same bits twice."""
    rng = np.random.default_rng(0)
    sharp_NK = -np.sort(-rng.dirichlet([20, 1, 1, 1], 40), axis=1)
    flat_NK = -np.sort(-rng.dirichlet([5, 5, 5, 5], 40), axis=1)
    probability_NK = np.concatenate([sharp_NK, flat_NK])
    for view in (projections.pca, lambda p_NK: projections.tsne(p_NK, seed=3)):
        place_N2 = view(probability_NK)
        centres_22 = place_N2[:40].mean(axis=0), place_N2[40:].mean(axis=0)
        apart = np.linalg.norm(centres_22[0] - centres_22[1])

        assert place_N2.shape == (80, 2)
        assert np.array_equal(place_N2, view(probability_NK))
        assert apart > np.linalg.norm(place_N2[:40] - centres_22[0], axis=1).mean()


@pytest.mark.parametrize("tokens", [1, 50])
def test_tokens_alike_lie_on_one_point(tokens):
    """Without spread there is nothing to turn an axis to, and t-SNE would divide by it."""
    probability_NK = np.tile(np.array([1, 0, 0, 0], dtype=np.float32), (tokens, 1))

    for place_N2 in (projections.pca(probability_NK), projections.tsne(probability_NK, seed=3)):
        assert place_N2.tolist() == [[0, 0]] * tokens
