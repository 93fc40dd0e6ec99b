"""Intervals of a law's parameters: profile intervals over pairs, jackknife intervals over models.

Shape legend: P pairs, K parameters of a law, J some of them, M models.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy.optimize import brentq, least_squares
from scipy.stats import f as f_distribution
from scipy.stats import t as t_distribution

from fsgen.analysis.scaling.laws import EXPONENTS, LAWS, Law, best_exponent, fit_parameters, residual

IDENTIFIED_FROM = 6  # distinct models; pairs share models, so fewer tell nothing about other models
DOUBLINGS = 40  # of the first step away from an estimate, after which an end counts as unbounded


class Bounds(NamedTuple):
    """Ends of an interval; None where the points set no end."""

    low: float | None
    high: float | None


class _Pairs(NamedTuple):
    """The points that a law is fitted to."""

    small_P: np.ndarray
    large_P: np.ndarray
    cof_P: np.ndarray


@dataclass(frozen=True)
class _ProfileCurve:
    """The residual sum of squares of a fit as a function of one parameter.

    The search for an interval's ends moves along this curve by offsets from the estimate.
    """

    estimate: float
    squares: Callable[[float], float]
    """Least residual sum of squares over all other parameters, with this parameter at a value."""
    step: float
    """The first offset to try."""
    furthest: tuple[float, float] = (-np.inf, np.inf)
    """The offsets, downwards and upwards, at which the search stops."""
    is_relative: bool = False
    """Whether an offset is a difference of the parameter's logarithm, not of the parameter."""

    def value(self, offset: float) -> float:
        if self.is_relative:
            return float(self.estimate * np.exp(offset))
        return float(self.estimate + offset)

    def squares_at(self, offset: float) -> float:
        return self.squares(self.value(offset))


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
    pairs = _Pairs(*(np.asarray(x, dtype=np.float64) for x in (small_P, large_P, cof_P)))
    params_K = fit_parameters(law, *pairs)
    if params_K is None or (rule.smooth is None and rule.is_at_bound(params_K)):
        return _without_ends(rule)
    if rule.smooth is None:
        return _bound_parameters(rule, pairs, params_K, level)
    return _bound_from_exponent(rule, pairs, level)


def _without_ends(rule: Law) -> dict[str, Bounds]:
    return dict.fromkeys(rule.parameters, Bounds(None, None))


def _bound_parameters(rule: Law, pairs: _Pairs, params_K: np.ndarray, level: float) -> dict[str, Bounds]:
    """Bounds of every parameter of a law whose fitted parameters are the least squares estimate."""
    predicted_P = rule.predict(pairs.small_P, pairs.large_P, *params_K)
    threshold = _threshold(_sum_squares(pairs.cof_P - predicted_P), rule, pairs, level)
    return {
        name: _find_ends(_profile_parameter(rule, pairs, params_K, name), threshold)
        for name in rule.parameters
    }


def _bound_from_exponent(rule: Law, pairs: _Pairs, level: float) -> dict[str, Bounds]:
    """Bounds of a law with one exponent: first the exponent's, then the others' if they exist.

    The law's own fit is not used, because its exponent may lie on the authors' bound.
    """
    (exponent,) = rule.exponents
    curve = _profile_smooth_exponent(rule, pairs)
    threshold = _threshold(curve.squares(curve.estimate), rule, pairs, level)
    bounds = _find_ends(curve, threshold)
    ends = _without_ends(rule) | {exponent: bounds}
    # The other parameters diverge as the exponent goes to 0. Where the exponent has no end, theirs would
    # follow from `EXPONENTS`, not from the pairs.
    if None in bounds or bounds.low <= 0 <= bounds.high:
        return ends
    params_K = _fit_linear_parameters(rule, pairs, curve.estimate)
    for name in rule.parameters:
        if name != exponent:
            ends[name] = _find_ends(_profile_parameter(rule, pairs, params_K, name), threshold)
    return ends


def _threshold(least_squares_sum: float, rule: Law, pairs: _Pairs, level: float) -> float:
    """The residual sum of squares at the ends of an interval."""
    freedom = len(pairs.cof_P) - len(rule.parameters)
    return least_squares_sum * (1 + f_distribution.ppf(level, 1, freedom) / freedom)


def _sum_squares(residual_P: np.ndarray) -> float:
    return float((residual_P**2).sum())


def _profile_smooth_exponent(rule: Law, pairs: _Pairs) -> _ProfileCurve:
    """The profile of a law's one exponent; it is continuous at 0, where the law tends to a logarithm."""

    def squares(exponent: float) -> float:
        return _sum_squares(residual(rule.smooth(pairs.small_P, pairs.large_P, exponent), pairs.cof_P))

    return _profile_exponent(best_exponent(rule, *pairs), squares)


def _profile_exponent(estimate: float, squares: Callable[[float], float]) -> _ProfileCurve:
    return _ProfileCurve(estimate, squares, step=0.01, furthest=(-EXPONENTS - estimate, EXPONENTS - estimate))


def _profile_parameter(rule: Law, pairs: _Pairs, params_K: np.ndarray, name: str) -> _ProfileCurve:
    """The profile of one parameter around the estimate `params_K` of all."""
    k = rule.parameters.index(name)
    estimate, squares = float(params_K[k]), _Refit(rule, pairs, params_K, k).squares
    if name in rule.exponents:
        return _profile_exponent(estimate, squares)
    if rule.exponents and name == "a":  # multiplies powers: it spans magnitudes and keeps its sign
        return _ProfileCurve(estimate, squares, step=0.01, is_relative=True)
    return _ProfileCurve(estimate, squares, step=1e-3 * float(np.ptp(pairs.cof_P)))


class _Refit:
    """Refits a law with one parameter fixed.

    The free exponents are searched, and the free linear parameters follow from them by linear least
    squares. A search starts from the exponents of the last one, which is close when values are visited
    in small steps.
    """

    def __init__(self, rule: Law, pairs: _Pairs, params_K: np.ndarray, fixed: int):
        free_J = [k for k in range(len(rule.parameters)) if k != fixed]
        self.rule, self.pairs, self.params_K, self.fixed = rule, pairs, params_K, fixed
        self.exponents_J = [k for k in free_J if _is_exponent(rule, k)]
        self.linear_J = [k for k in free_J if not _is_exponent(rule, k)]
        self.start_J = params_K[self.exponents_J]

    def squares(self, value: float) -> float:
        """The least residual sum of squares with the fixed parameter at this value."""
        if not self.exponents_J:
            return _sum_squares(self._residual(self.start_J, value))
        solution = least_squares(
            self._residual, self.start_J, args=(value,), method="lm", xtol=1e-12, ftol=1e-12
        )
        self.start_J = solution.x
        return _sum_squares(solution.fun)

    def _residual(self, exponents_J: np.ndarray, value: float) -> np.ndarray:
        """The residual [P] of the best free linear parameters, given all exponents."""
        point_K = self.params_K.copy()
        point_K[self.fixed] = value
        point_K[self.exponents_J] = np.clip(exponents_J, -EXPONENTS, EXPONENTS)
        target_P = self.pairs.cof_P
        if not _is_exponent(self.rule, self.fixed):  # its term is known: only the rest is to be fitted
            target_P = target_P - value * _regressors(self.rule, self.pairs, point_K, [self.fixed])[0]
        if not self.linear_J:
            return target_P
        return residual(_regressors(self.rule, self.pairs, point_K, self.linear_J), target_P)


def _is_exponent(rule: Law, k: int) -> bool:
    return rule.parameters[k] in rule.exponents


def _regressors(rule: Law, pairs: _Pairs, params_K: np.ndarray, linear_J: list[int]) -> list[np.ndarray]:
    """The factor [P] of each of these linear parameters in the law, given the exponents in `params_K`.

    Given its exponents, a law is the sum of its linear parameters times their factors. One of them at 1
    and all others at 0 therefore leave that one's factor.
    """
    exponents_K = _keep_exponents(rule, params_K)
    unit_KK = np.eye(len(params_K))
    return [rule.predict(pairs.small_P, pairs.large_P, *(exponents_K + unit_KK[k])) for k in linear_J]


def _keep_exponents(rule: Law, params_K: np.ndarray) -> np.ndarray:
    """The parameters [K] with all linear ones at 0."""
    return np.where([name in rule.exponents for name in rule.parameters], params_K, 0.0)


def _fit_linear_parameters(rule: Law, pairs: _Pairs, exponent: float) -> np.ndarray:
    """The parameters [K] of the least squares fit of a law whose one exponent is given."""
    params_K = _keep_exponents(rule, np.full(len(rule.parameters), exponent))
    linear_J = [k for k in range(len(params_K)) if not _is_exponent(rule, k)]
    regressors_PJ = np.column_stack(_regressors(rule, pairs, params_K, linear_J))
    # Powers of the sizes may differ by magnitudes: at equal scales the solver drops none as too small.
    scale_J = np.abs(regressors_PJ).max(axis=0)
    params_K[linear_J] = np.linalg.lstsq(regressors_PJ / scale_J, pairs.cof_P, rcond=None)[0] / scale_J
    return params_K


def _find_ends(curve: _ProfileCurve, threshold: float) -> Bounds:
    """The values at which the residual first crosses the threshold on either side of the estimate."""
    return Bounds(_find_end(curve, threshold, -1), _find_end(curve, threshold, 1))


def _find_end(curve: _ProfileCurve, threshold: float, sign: int) -> float | None:
    """The interval's end below (sign -1) or above (sign 1) the estimate."""
    excess_inside = curve.squares_at(0.0) - threshold
    if excess_inside >= 0:  # the law fits exactly: the interval is the estimate alone
        return curve.value(0.0)
    excess_of = _bracket_end(curve, threshold, sign, excess_inside)
    if excess_of is None:
        return None

    def excess(offset: float) -> float:
        value = curve.squares_at(offset) - threshold
        # A refit starts from the last one and may end in another minimum: the sign at the bracket's ends
        # stays as it was when they were found, or the search would have nothing to bracket.
        known = excess_of.get(offset, value)
        return value if value * known > 0 else known

    return curve.value(brentq(excess, *excess_of, xtol=1e-12))


def _bracket_end(
    curve: _ProfileCurve, threshold: float, sign: int, excess_inside: float
) -> dict[float, float] | None:
    """The last offset inside the interval and the first outside it, with their excess over the threshold.

    None where no offset is outside. `excess_inside` is the excess at the estimate.
    """
    inside = 0.0
    for offset in _double_offsets(curve, sign):
        excess = curve.squares_at(offset) - threshold
        if excess > 0:
            return {inside: excess_inside, offset: excess}
        inside, excess_inside = offset, excess
    return None


def _double_offsets(curve: _ProfileCurve, sign: int) -> Iterator[float]:
    """Offsets away from the estimate, each twice the last, up to the furthest."""
    furthest = curve.furthest[0 if sign < 0 else 1]
    for doubling in range(DOUBLINGS):
        offset = sign * curve.step * 2.0**doubling
        if abs(offset) >= abs(furthest):
            yield furthest
            return
        yield offset


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
    rule, pairs, models = LAWS[law], _Pairs(small_P, large_P, cof_P), np.unique(names_P2)
    params_K = fit_parameters(law, *pairs)
    if params_K is None or len(models) < IDENTIFIED_FROM or rule.is_at_bound(params_K):
        return _without_ends(rule)
    params_MK = _fit_without_each(models, law, pairs, names_P2)
    if params_MK is None:
        return _without_ends(rule)
    half_K = t_distribution.ppf((1 + level) / 2, len(models) - 1) * _jackknife_error(params_MK)
    ends = zip((params_K - half_K).tolist(), (params_K + half_K).tolist(), strict=True)
    return dict(zip(rule.parameters, map(Bounds._make, ends), strict=True))


def _fit_without_each(models, law: str, pairs: _Pairs, names_P2: np.ndarray) -> np.ndarray | None:
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
