"""Tests of `discrimination`: rankings are scikit-learn's, shares and rates have closed forms."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, brier_score_loss, roc_auc_score

from fsgen.analysis.uncertainty import discrimination

tokens = st.lists(st.tuples(st.integers(0, 9), st.booleans(), st.integers(0, 4)), min_size=2, max_size=60)


def columns(rows):
    doubt_N, mismatch_N, prompt_N = (np.array(column) for column in zip(*rows, strict=True))
    return doubt_N.astype(float), mismatch_N, prompt_N


@settings(deadline=None, max_examples=60)
@given(tokens)
def test_rankings_are_those_of_scikit_learn_ties_included(rows):
    """AUROC and average precision of any few scores, each inside its interval; None without both kinds."""
    doubt_N, mismatch_N, prompt_N = columns(rows)
    result = discrimination.rank(doubt_N, mismatch_N, prompt_N, seed=1, replicates=50)

    if mismatch_N.all() or not mismatch_N.any():
        assert result == (None, None, None)
        return
    assert result.auroc.value == pytest.approx(roc_auc_score(mismatch_N, doubt_N))
    assert result.average_precision.value == pytest.approx(average_precision_score(mismatch_N, doubt_N))
    for interval in (result.auroc, result.average_precision, *result.lorenz):
        assert interval.low <= interval.value <= interval.high


def test_values_of_many_distinct_scores_are_exact_though_their_intervals_are_binned():
    """20,000 scores in 256 bins: AUROC and average precision are scikit-learn's, inside their intervals."""
    rng = np.random.default_rng(0)
    doubt_N = rng.normal(size=20_000)
    mismatch_N = rng.random(20_000) < 1 / (1 + np.exp(2 - 1.5 * doubt_N))
    result = discrimination.rank(doubt_N, mismatch_N, np.repeat(np.arange(100), 200), seed=1, replicates=100)

    expected = {"auroc": roc_auc_score, "average_precision": average_precision_score}
    for quantity, measure in expected.items():
        interval = getattr(result, quantity)
        assert interval.value == pytest.approx(measure(mismatch_N, doubt_N))
        assert interval.value - 0.03 < interval.low < interval.value < interval.high < interval.value + 0.03


def test_a_perfect_score_holds_all_mismatches_in_their_share_of_the_tokens():
    """One in five is a mismatch: the Lorenz curve is 5 x up to 20 %, and 1 beyond; AUROC and AP are 1."""
    mismatch_N = np.tile([True, False, False, False, False], 100)
    result = discrimination.rank(mismatch_N * 1.0, mismatch_N, np.repeat(np.arange(50), 10), seed=1)
    expected = [min(1.0, 5 * share) for share in discrimination.SHARES]

    assert [interval.value for interval in result.lorenz] == pytest.approx(expected)
    assert (result.auroc.value, result.average_precision.value) == (1, 1)


def test_a_constant_score_knows_nothing():
    """AUROC 1/2, average precision the base rate, and the Lorenz curve its diagonal."""
    mismatch_N = np.tile([True, False, False, False], 100)
    result = discrimination.rank(np.ones(400), mismatch_N, np.repeat(np.arange(50), 8), seed=1)

    assert [interval.value for interval in result.lorenz] == pytest.approx(list(discrimination.SHARES))
    assert result.auroc.value == 0.5
    assert result.average_precision.value == pytest.approx(0.25)


@given(st.permutations([0.1, 0.4, 0.4, 0.7, 0.9]))
def test_lorenz_shares_count_tied_tokens_evenly(scores_):
    """Recounted token by token: the share of mismatches in the top x, a tied block taken in proportion."""
    doubt_N, mismatch_N = np.array(scores_), np.array([True, False, True, False, True])
    result = discrimination.rank(doubt_N, mismatch_N, np.arange(5), seed=1, replicates=20)
    for share, interval in zip(discrimination.SHARES, result.lorenz, strict=True):
        left, held = 5 * share, 0.0
        for level in sorted(set(scores_), reverse=True):
            block = doubt_N == level
            taken = min(left, block.sum())
            held += taken * mismatch_N[block].mean()
            left -= taken
        assert interval.value == pytest.approx(held / 3)


@given(tokens)
def test_brier_is_the_mean_squared_error(rows):
    """scikit-learn's, of chances that are tenths."""
    doubt_N, mismatch_N, prompt_N = columns(rows)
    result = discrimination.brier(doubt_N / 10, mismatch_N, prompt_N, seed=1)

    assert result.value == pytest.approx(brier_score_loss(mismatch_N, doubt_N / 10, pos_label=True))


def test_tenths_of_a_calibrated_chance_have_the_rates_that_it_claims():
    """Ten bins of equally many tokens, nearly all intervals on the diagonal; doubt rises through them."""
    rng = np.random.default_rng(3)
    chance_N = rng.random(20_000)
    mismatch_N = rng.random(20_000) < chance_N
    result = discrimination.deciles(chance_N, mismatch_N, np.repeat(np.arange(200), 100), seed=1)

    assert [tenth.tokens for tenth in result] == [2000] * 10
    assert sum(tenth.rate.low <= tenth.mean_uncertainty <= tenth.rate.high for tenth in result) >= 8
    assert [tenth.mean_uncertainty for tenth in result] == sorted(tenth.mean_uncertainty for tenth in result)


@given(tokens)
def test_tenths_hold_every_token_once_and_no_tie_is_split(rows):
    """However many scores are equal."""
    doubt_N, mismatch_N, prompt_N = columns(rows)
    result = discrimination.deciles(doubt_N, mismatch_N, prompt_N, seed=1)

    assert sum(tenth.tokens for tenth in result) == len(rows)
    means = [tenth.mean_uncertainty for tenth in result]
    assert means == sorted(set(means))


def test_probability_and_margin_are_turned_to_rise_with_doubt():
    """Entropy and learned chances do already."""
    value_N = np.array([0.2, 0.9])

    assert discrimination.uncertainty_of("max_probability", value_N).tolist() == pytest.approx([0.8, 0.1])
    assert discrimination.uncertainty_of("margin", value_N).tolist() == pytest.approx([0.8, 0.1])
    assert discrimination.uncertainty_of("entropy", value_N).tolist() == value_N.tolist()
