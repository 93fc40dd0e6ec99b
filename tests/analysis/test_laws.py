"""Tests of `laws`: laws return what made the points, or refuse."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import curve_fit

from fsgen.analysis.scaling import laws

SIZES = np.array([0.5, 1.8, 4.0, 7.0, 14.0, 32.0])
SMALL_P, LARGE_P = np.array([(s, l) for l in SIZES for s in SIZES if s < l]).T
NOTHING = laws.Fit(None, None, None, None, None)
TRUTHS = [
    ("power", {"a": 0.3, "alpha": 0.4, "b": 0.35}),
    ("log_ratio", {"c0": 0.02, "c1": 0.05}),
    ("two_size", {"c0": 0.1, "c1": 0.03, "c2": -0.06}),
    ("product", {"a": 0.09, "p": 0.1, "q": 0.3}),
    ("gap", {"a": 0.15, "p": 0.35}),
    ("gap", {"a": -0.04, "p": -0.3}),
]


@pytest.mark.parametrize(("law", "params"), TRUTHS)
@pytest.mark.parametrize("unit", [1.0, 1e-6])
def test_points_made_by_a_law_return_its_parameters(law, params, unit):
    """Exact points leave no residual, whether models have billions or thousands of parameters."""
    small_P, large_P = SMALL_P * unit, LARGE_P * unit
    cof_P = laws.LAWS[law].predict(small_P, large_P, *params.values())
    fit = laws.fit(law, small_P, large_P, cof_P)

    assert params == pytest.approx(fit.params, rel=1e-5)
    assert fit.r2 == pytest.approx(1)
    assert fit.loo_rmse == pytest.approx(0, abs=1e-5)
    assert not fit.at_bound


def noisy(seed=0):
    return 0.02 + 0.05 * np.log10(LARGE_P / SMALL_P) + np.random.default_rng(seed).normal(0, 0.01, 15)


@pytest.mark.parametrize(("law", "truth"), TRUTHS)
def test_no_small_step_away_from_a_fit_lowers_its_squares(law, truth):
    """Least squares on CoF itself: a minimum, whatever way it was found."""
    noise_P = np.random.default_rng(0).normal(0, 0.003, len(SMALL_P))
    cof_P = laws.LAWS[law].predict(SMALL_P, LARGE_P, *truth.values()) + noise_P
    fit = laws.fit(law, SMALL_P, LARGE_P, cof_P)
    params_K = np.array(list(fit.params.values()))

    def squares(params_K):
        return ((laws.LAWS[law].predict(SMALL_P, LARGE_P, *params_K) - cof_P) ** 2).sum()

    assert not fit.at_bound
    for step_K in np.vstack([np.eye(len(params_K)), -np.eye(len(params_K))]) * 1e-3:
        assert squares(params_K) < squares(params_K * (1 + step_K))


@pytest.mark.parametrize("seed", range(3))
def test_the_power_law_is_the_authors_own_curve_fit(seed):
    """curve_fit(p0=[1, 1, 1], bounds=(0.05, inf)) on the ratio gives the very same numbers."""
    cof_P = noisy(seed)
    expected_K, _ = curve_fit(
        lambda r, a, alpha, b: -a * r ** (-alpha) + b,
        LARGE_P / SMALL_P,
        cof_P,
        p0=[1, 1, 1],
        bounds=(0.05, np.inf),
    )

    assert expected_K == pytest.approx(
        list(laws.fit("power", SMALL_P, LARGE_P, cof_P).params.values()), rel=1e-9
    )


def test_a_power_law_pressed_against_the_authors_bound_says_so():
    """A CoF that bends upwards in log r asks for alpha < 0; the fit stops at 0.05."""
    cof_P = 0.02 + 0.03 * np.log10(LARGE_P / SMALL_P) ** 2
    fit = laws.fit("power", SMALL_P, LARGE_P, cof_P)

    assert fit.params["alpha"] == pytest.approx(0.05, rel=1e-3)
    assert fit.at_bound


def test_measures_of_a_straight_line_are_those_of_the_textbook():
    """r2, leave-one-out as e / (1 - leverage), AICc with K + 1 = 3, from the residuals."""
    cof_P = noisy()
    fit = laws.fit("log_ratio", SMALL_P, LARGE_P, cof_P)
    x_P = np.log10(LARGE_P / SMALL_P)
    c1, c0 = np.polyfit(x_P, cof_P, 1)
    residual_P = cof_P - c0 - c1 * x_P
    leverage_P = 1 / 15 + (x_P - x_P.mean()) ** 2 / ((x_P - x_P.mean()) ** 2).sum()
    squares = (residual_P**2).sum()

    assert {"c0": c0, "c1": c1} == pytest.approx(fit.params)
    assert np.corrcoef(x_P, cof_P)[0, 1] ** 2 == pytest.approx(fit.r2)
    assert np.sqrt(np.mean((residual_P / (1 - leverage_P)) ** 2)) == pytest.approx(fit.loo_rmse)
    assert 15 * np.log(squares / 15) + 6 + 2 * 3 * 4 / (15 - 4) == pytest.approx(fit.aicc)


def test_the_ratio_law_is_the_two_size_law_with_opposite_slopes():
    """On points that only the ratio decides both give the same curve."""
    cof_P = laws.log_ratio(SMALL_P, LARGE_P, 0.02, 0.05)
    params = laws.fit("two_size", SMALL_P, LARGE_P, cof_P).params

    assert params == pytest.approx({"c0": 0.02, "c1": 0.05, "c2": -0.05})


@pytest.mark.parametrize("law", laws.LAWS)
def test_as_many_pairs_as_parameters_are_refused_and_one_more_has_no_leave_one_out(law):
    """A curve through all its points would claim r2 = 1 for nothing."""
    count = len(laws.LAWS[law].parameters)
    small_P, large_P = np.array([0.5, 1.8, 0.5, 4.0]), np.array([4.0, 32.0, 14.0, 7.0])
    cof_P = np.array([0.1, 0.14, 0.16, 0.05])
    more = laws.fit(law, small_P[: count + 1], large_P[: count + 1], cof_P[: count + 1])

    assert laws.fit(law, small_P[:count], large_P[:count], cof_P[:count]) == NOTHING
    assert more.params is not None
    assert (more.loo_rmse, more.aicc) == (None, None)


def test_sizes_that_do_not_vary_enough_are_refused():
    """One ratio tells nothing of ratios; one small model nothing of small models."""
    small_P = np.array([1.0, 2.0, 4.0, 8.0, 16.0])
    cof_P = np.array([0.1, 0.11, 0.13, 0.12, 0.15])

    for law in ("power", "log_ratio", "two_size", "product"):
        assert laws.fit(law, small_P, 3 * small_P, cof_P) == NOTHING
    for law in ("two_size", "product"):
        assert laws.fit(law, np.full(5, 0.5), small_P, cof_P) == NOTHING
    assert laws.fit("gap", np.full(5, 0.5), np.full(5, 7.0), cof_P) == NOTHING


def test_a_size_of_nothing_is_refused():
    """Logarithms of sizes must exist."""
    with pytest.raises(ValueError, match="Expected positive sizes"):
        laws.fit("log_ratio", [0.0, 1.0, 2.0], [4.0, 4.0, 4.0], [0.1, 0.1, 0.1])


pairs = st.lists(st.tuples(st.sampled_from(SIZES), st.sampled_from(SIZES), st.floats(0, 1)), max_size=8)


@settings(deadline=None, max_examples=40)
@given(pairs, st.sampled_from(sorted(laws.LAWS)))
def test_any_pairs_give_finite_numbers_or_none(rows, law):
    """No fit crashes, and none leaves a number that JSON cannot hold."""
    fit = laws.fit(law, *np.array(rows, dtype=float).reshape(-1, 3).T)

    json.dumps(fit._asdict(), allow_nan=False)
    assert (fit.params is None) == (fit.at_bound is None)
