"""Intervals of a law's parameters: profile intervals over pairs, jackknife intervals over models.

Shape legend: P pairs, K parameters of a law, M models.
"""

import numpy as np
from scipy.stats import f as f_distribution
from scipy.stats import t as t_distribution

from fsgen.analysis.scaling.laws import LAWS, Law, fit_parameters
from fsgen.analysis.scaling.profile_curves import (
    Bounds,
    Pairs,
    find_ends,
    fit_linear_parameters,
    profile_parameter,
    profile_smooth_exponent,
    sum_squares,
)

IDENTIFIED_FROM = 6  # distinct models; pairs share models, so fewer tell nothing about other models


def profile(law: str, small_P, large_P, cof_P, level: float = 0.95) -> dict[str, Bounds]:
    """Profile intervals of a fitted law's parameters, assuming that the pairs' errors are independent.

    An interval holds every value of a parameter for which the best choice of the other parameters
    leaves a residual sum of squares of at most RSS (1 + F / (n - K)). RSS is the least of all, n the
    number of pairs, and F the quantile at 1 and n - K degrees of freedom. For a linear law this is the
    t interval.

    Exponents of either sign are searched up to `EXPONENTS`: the authors' bound on alpha does not hold
    here. Where the exponent may be 0, the parameters that diverge there have no ends. All ends are None
    where the pairs do not determine the law.
    """
    rule = LAWS[law]
    pairs = Pairs(*(np.asarray(x, dtype=np.float64) for x in (small_P, large_P, cof_P)))
    params_K = fit_parameters(law, *pairs)
    if params_K is None or (rule.smooth is None and rule.is_at_bound(params_K)):
        return _without_ends(rule)
    if rule.smooth is None:
        return _bound_parameters(rule, pairs, params_K, level)
    return _bound_from_exponent(rule, pairs, level)


def _without_ends(rule: Law) -> dict[str, Bounds]:
    return dict.fromkeys(rule.parameters, Bounds(None, None))


def _bound_parameters(rule: Law, pairs: Pairs, params_K: np.ndarray, level: float) -> dict[str, Bounds]:
    """Bounds of every parameter of a law whose fitted parameters are the least squares estimate."""
    predicted_P = rule.predict(pairs.small_P, pairs.large_P, *params_K)
    threshold = _threshold(sum_squares(pairs.cof_P - predicted_P), rule, pairs, level)
    return {
        name: find_ends(profile_parameter(rule, pairs, params_K, name), threshold) for name in rule.parameters
    }


def _bound_from_exponent(rule: Law, pairs: Pairs, level: float) -> dict[str, Bounds]:
    """Bounds of a law with one exponent: first the exponent's, then the others' if they exist.

    The law's own fit is not used, because its exponent may lie on the authors' bound.
    """
    (exponent,) = rule.exponents
    curve = profile_smooth_exponent(rule, pairs)
    threshold = _threshold(curve.squares(curve.estimate), rule, pairs, level)
    bounds = find_ends(curve, threshold)
    ends = _without_ends(rule) | {exponent: bounds}
    # The other parameters diverge as the exponent goes to 0. Where the exponent has no end, theirs would
    # follow from `EXPONENTS`, not from the pairs.
    if None in bounds or bounds.low <= 0 <= bounds.high:
        return ends
    params_K = fit_linear_parameters(rule, pairs, curve.estimate)
    for name in rule.parameters:
        if name != exponent:
            ends[name] = find_ends(profile_parameter(rule, pairs, params_K, name), threshold)
    return ends


def _threshold(least_squares_sum: float, rule: Law, pairs: Pairs, level: float) -> float:
    """The residual sum of squares at the ends of an interval."""
    freedom = len(pairs.cof_P) - len(rule.parameters)
    return least_squares_sum * (1 + f_distribution.ppf(level, 1, freedom) / freedom)


def jackknife(
    law: str, small_P, large_P, cof_P, names_P2: np.ndarray, level: float = 0.95
) -> dict[str, Bounds]:
    """Intervals of a law's parameters for other models than these.

    Each of the M models is left out in turn, with all its pairs; `names_P2` holds each pair's two models.
    The half width is t at M - 1 degrees of freedom times the jackknife's standard error. This error
    counts a pair's own error twice, so the intervals tend to be too wide.

    All ends are None below `IDENTIFIED_FROM` models, where the estimate lies on its bound, and where the
    law is not determined without some model.
    """
    rule, pairs, models = LAWS[law], Pairs(small_P, large_P, cof_P), np.unique(names_P2)
    params_K = fit_parameters(law, *pairs)
    if params_K is None or len(models) < IDENTIFIED_FROM or rule.is_at_bound(params_K):
        return _without_ends(rule)
    params_MK = _fit_without_each(models, law, pairs, names_P2)
    if params_MK is None:
        return _without_ends(rule)
    half_K = t_distribution.ppf((1 + level) / 2, len(models) - 1) * _jackknife_error(params_MK)
    ends = zip((params_K - half_K).tolist(), (params_K + half_K).tolist(), strict=True)
    return dict(zip(rule.parameters, map(Bounds._make, ends), strict=True))


def _fit_without_each(models, law: str, pairs: Pairs, names_P2: np.ndarray) -> np.ndarray | None:
    """The parameters [M, K] of the fits that leave out one model; None if one is not determined."""
    fits = []
    for model in models:
        kept_P = (names_P2 != model).all(axis=1)
        fits.append(fit_parameters(law, *(values_P[kept_P] for values_P in pairs)))
        if fits[-1] is None:
            return None
    return np.array(fits)


def _jackknife_error(params_MK: np.ndarray) -> np.ndarray:
    """The jackknife's standard error [K] of each parameter."""
    models = len(params_MK)
    away_MK = params_MK - params_MK.mean(axis=0)
    return np.sqrt((models - 1) / models * (away_MK**2).sum(axis=0))
