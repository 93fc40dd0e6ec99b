"""Tests of `intervals`: closed forms, honesty where nothing varies, measured coverage."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fsgen.analysis import intervals

Z2 = 1.959963984540054**2


def test_no_success_in_n_has_wilsons_closed_upper_bound():
    """With 0 of n the bound is z^2 / (n + z^2), and from the other side with n of n."""
    none, all_ = intervals.wilson(0, 20), intervals.wilson(20, 20)

    assert (none.value, none.low) == (0.0, 0.0)
    assert none.high == pytest.approx(Z2 / (20 + Z2))
    assert (all_.value, all_.high) == (1.0, 1.0)
    assert all_.low == pytest.approx(20 / (20 + Z2))


def test_wilsons_bounds_are_the_roots_of_the_score_equation():
    """Both ends p satisfy n (share - p)^2 = z^2 p (1 - p)."""
    interval = intervals.wilson(7, 30)

    for end in (interval.low, interval.high):
        assert 30 * (7 / 30 - end) ** 2 == pytest.approx(Z2 * end * (1 - end))


@pytest.mark.parametrize(("successes", "n"), [(0, 0), (-1, 5), (6, 5)])
def test_an_impossible_count_is_refused(successes, n):
    """A share of nothing, or of more than all, is not a share."""
    with pytest.raises(ValueError, match="Expected 0 <= successes <= n"):
        intervals.wilson(successes, n)


def test_the_value_is_the_ratio_of_sums_and_the_order_of_prompts_does_not_move_it():
    """Reordering prompts leaves the value and, up to Monte Carlo error, the interval."""
    generator = np.random.default_rng(3)
    tokens_P = generator.integers(20, 120, 80)
    mismatches_P = generator.binomial(tokens_P, 0.15)
    order_P = generator.permutation(80)
    first = intervals.ratio(mismatches_P, tokens_P, seed=5)
    second = intervals.ratio(mismatches_P[order_P], tokens_P[order_P], seed=5)

    assert mismatches_P.sum() / tokens_P.sum() == first.value == second.value
    assert first.low == pytest.approx(second.low, abs=0.1 * (first.high - first.low))
    assert first.high == pytest.approx(second.high, abs=0.1 * (first.high - first.low))


def test_the_same_seed_gives_the_same_interval_and_another_seed_another_one():
    """Nothing but the seed is random."""
    numerator_P, denominator_P = np.arange(1, 41), np.full(40, 60)
    first = intervals.ratio(numerator_P, denominator_P, seed=1)

    assert first == intervals.ratio(numerator_P, denominator_P, seed=1)
    assert first != intervals.ratio(numerator_P, denominator_P, seed=2)


def test_samples_are_the_same_whether_kept_or_drawn_again(monkeypatch):
    """What is remembered for speed is what would be drawn; fewer samples are the first of more."""
    counts_PX = np.random.default_rng(2).integers(0, 9, (40, 3))
    kept = np.concatenate([*intervals.resampled(counts_PX, 1, 600)])
    monkeypatch.setattr(intervals, "REMEMBERED", 0)
    drawn = np.concatenate([*intervals.resampled(counts_PX, 1, 600)])

    assert kept.shape == (600, 3)
    assert np.array_equal(kept, drawn)
    assert np.array_equal(kept[:310], np.concatenate([*intervals.resampled(counts_PX, 1, 310)]))
    assert len(np.unique(kept, axis=0)) > 590


def test_any_statistic_of_sums_has_the_interval_of_its_ratio():
    """`ratio` is `bca` of a quotient of sums, and a monotone function of it has the function's interval."""
    rng = np.random.default_rng(3)
    tokens_P = rng.integers(20, 60, 80)
    counts_P2 = np.column_stack([rng.binomial(tokens_P, 0.2), tokens_P]).astype(float)
    plain = intervals.ratio(*counts_P2.T, seed=4)
    logit = intervals.bca(lambda x: np.log(x[..., 0] / x[..., 1]), counts_P2, seed=4, limits=(-np.inf, 0))

    assert plain == intervals.bca(lambda x: x[..., 0] / x[..., 1], counts_P2, seed=4)
    assert np.exp(logit) == pytest.approx(plain, rel=0.02)


def test_samples_on_which_a_statistic_has_no_value_are_left_out():
    """Where one prompt alone has the event, a third of the samples lack it; the others still count."""
    counts_P2 = np.array([[1.0, 5.0]] * 3 + [[0.0, 0.0]] * 3)
    result = intervals.bca(lambda x: x[..., 1] / x[..., 0], counts_P2, seed=1, limits=(0, 10))

    assert result.value == 5
    assert 0 <= result.low <= 5 <= result.high <= 10
    with pytest.raises(ValueError, match="Expected a finite statistic"):
        intervals.bca(lambda x: np.nan * x[..., 0], counts_P2, seed=1)


@pytest.mark.long
def test_many_like_prompts_give_the_normal_interval():
    """With 2000 symmetric prompts BCa is mean -+ z sd / sqrt(P), to a few percent."""
    numerator_P = np.tile([0.2, 0.3, 0.4], 667)
    interval = intervals.ratio(numerator_P, np.ones(2001), seed=0, replicates=16_000)
    half = math.sqrt(Z2) * numerator_P.std() / math.sqrt(2001)

    assert interval.low == pytest.approx(0.3 - half, abs=0.06 * half)
    assert interval.high == pytest.approx(0.3 + half, abs=0.06 * half)


def test_a_skewed_sample_leans_the_interval_towards_its_tail():
    """Bias correction and acceleration shift both ends of a lognormal mean upwards."""
    numerator_P = np.random.default_rng(0).lognormal(0, 1, 60)
    interval = intervals.ratio(numerator_P, np.ones(60), seed=0)

    assert interval.high - interval.value > 1.2 * (interval.value - interval.low)


def test_repeating_prompts_as_longer_texts_does_not_narrow_the_interval():
    """Prompts are the unit: ten times the tokens at the same ratios is no more evidence."""
    numerator_P, denominator_P = np.array([1, 4, 2, 7, 3, 5]), np.array([20, 20, 25, 40, 30, 21])

    assert intervals.ratio(numerator_P, denominator_P, seed=4) == pytest.approx(
        intervals.ratio(numerator_P * 10, denominator_P * 10, seed=4)
    )


@pytest.mark.parametrize("share", [0, 1])
def test_a_share_at_its_boundary_gets_wilsons_bound_at_the_number_of_prompts(share):
    """No mismatch in 32 prompts does not prove that there is none."""
    tokens_P = np.arange(10, 42)

    assert intervals.ratio(share * tokens_P, tokens_P, seed=0) == pytest.approx(
        intervals.wilson(share * 32, 32)
    )


def test_one_prompt_leaves_a_share_anywhere_and_another_ratio_on_the_whole_line():
    """The spread between prompts cannot be seen on one of them."""
    assert intervals.ratio([5], [20], seed=0) == (0.25, 0.0, 1.0)
    assert (2.0, -math.inf, math.inf) == intervals.ratio([40], [20], seed=0)


def test_known_limits_are_all_that_a_prompt_without_spread_leaves_open():
    """One prompt reaches both; many come nearer; where prompts differ they change nothing."""
    one = intervals.ratio([40], [20], seed=0, limits=(1, 6))
    many = intervals.ratio([40] * 30, [20] * 30, seed=0, limits=(1, 6))
    share = intervals.wilson(0, 30).high

    assert one == (2.0, 1.0, 6.0)
    assert many == pytest.approx((2.0, 2 - share, 2 + 4 * share))
    assert intervals.ratio([0], [20], seed=0, limits=(0, 3)) == (0.0, 0.0, 3.0)
    differing = [40, 30, 50], [20, 20, 20]
    assert intervals.ratio(*differing, seed=0, limits=(1, 6)) == intervals.ratio(*differing, seed=0)


def test_columns_hold_no_infinity_and_metrics_six_decimals():
    """An end that nothing bounds is null, as an interval is that there is not."""
    row = intervals.interval_columns(intervals.ratio([1], [0.3], seed=0), "x")

    assert row == {"x": 1 / 0.3, "x_low": None, "x_high": None}
    assert intervals.interval_columns(intervals.wilson(1, 2), "v").keys() == {"v", "v_low", "v_high"}
    assert set(intervals.interval_columns(None, "value").values()) == {None}
    assert intervals.rounded(row, "x", "x_low") == {"x": 3.333333, "x_low": None}


def test_prompts_without_tokens_change_nothing():
    """A denominator of 0 is no evidence, so it is not counted as a prompt either."""
    bare = intervals.ratio([1, 2, 5], [10, 10, 10], seed=0)

    assert bare == intervals.ratio([1, 0, 2, 5, 0], [10, 0, 10, 10, 0], seed=0)


@pytest.mark.parametrize(
    ("numerator", "denominator"),
    [([0], [0]), ([], []), ([1, 2], [4, -4]), ([1, 2], [4, 0]), ([1], [2, 3]), ([math.nan], [1])],
)
def test_a_ratio_that_cannot_be_is_refused(numerator, denominator):
    """Each impossible input says what was expected."""
    with pytest.raises(ValueError, match="Expected"):
        intervals.ratio(numerator, denominator, seed=0)


def test_two_policies_with_equal_verdicts_may_still_differ_on_unseen_prompts():
    """No discordant prompt in 50: the difference lies within Wilson's bound on 0 of 50."""
    right_P = np.arange(50) % 3 == 0
    bound = intervals.wilson(0, 50).high

    assert intervals.mean_difference(right_P, right_P, seed=0) == pytest.approx((0, -bound, bound))


def test_a_paired_difference_changes_its_sign_with_the_order_of_the_policies():
    """a - b mirrors b - a: exactly in the value, and but for interpolation in the ends."""
    generator = np.random.default_rng(1)
    a_P, b_P = generator.random(100) < 0.6, generator.random(100) < 0.4
    forth = intervals.mean_difference(a_P, b_P, seed=9)
    back = intervals.mean_difference(b_P, a_P, seed=9)

    assert a_P.mean() - b_P.mean() == pytest.approx(forth.value)
    assert forth == pytest.approx((-back.value, -back.high, -back.low), abs=0.011)


def test_pairing_removes_what_the_prompts_share():
    """Adding a prompt's own difficulty to both policies leaves the interval."""
    generator = np.random.default_rng(2)
    gain_P, difficulty_P = generator.normal(0.1, 0.2, 60), generator.normal(0, 10, 60)
    plain = intervals.mean_difference(gain_P, np.zeros(60), seed=0)

    assert plain == pytest.approx(intervals.mean_difference(gain_P + difficulty_P, difficulty_P, seed=0))


counts = st.lists(
    st.tuples(st.integers(0, 60), st.integers(0, 60)).map(sorted), min_size=1, max_size=40
).filter(lambda rows: any(row[1] for row in rows))


@settings(deadline=None, max_examples=60)
@given(counts, st.integers(0, 2**32 - 1), st.sampled_from([0.9, 0.95, 0.999]))
def test_a_share_lies_in_its_interval_and_the_interval_between_0_and_1(rows, seed, level):
    """Whatever the counts, 0 <= low <= value <= high <= 1, and no certainty comes from a sample."""
    numerator_P, denominator_P = np.array(rows).T
    value, low, high = intervals.ratio(numerator_P, denominator_P, seed=seed, level=level, replicates=200)

    assert 0 <= low <= value <= high <= 1
    assert low < high


@pytest.mark.long
@pytest.mark.parametrize("prompts", [32, 100])
def test_intervals_cover_the_truth_about_as_often_as_they_say(prompts):
    """300 samples of beta-binomial clusters of uneven length: 95 % intervals, fixed seed."""
    generator = np.random.default_rng(prompts)
    covered = 0
    for seed in range(300):
        tokens_P = generator.integers(20, 200, prompts)
        mismatches_P = generator.binomial(tokens_P, generator.beta(1.5, 8.5, prompts))
        _, low, high = intervals.ratio(mismatches_P, tokens_P, seed=seed, replicates=400)
        covered += low <= 0.15 <= high

    assert 0.88 <= covered / 300 <= 0.99
