"""Refit a law along one of its parameters and find where the residual sum of squares crosses a bound.

Shape legend: P pairs, K parameters of a law, J some of them.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy.optimize import brentq, least_squares

from fsgen.analysis.scaling.laws import EXPONENTS, Law, best_exponent, residual

DOUBLINGS = 40  # of the first step away from an estimate, after which an end counts as unbounded


class Bounds(NamedTuple):
    """Ends of an interval; None where the points set no end."""

    low: float | None
    high: float | None


class Pairs(NamedTuple):
    """The points that a law is fitted to."""

    small_P: np.ndarray
    large_P: np.ndarray
    cof_P: np.ndarray


@dataclass(frozen=True)
class ProfileCurve:
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
        """The parameter at an offset from the estimate."""
        if self.is_relative:
            return float(self.estimate * np.exp(offset))
        return float(self.estimate + offset)

    def squares_at(self, offset: float) -> float:
        """The least residual sum of squares there."""
        return self.squares(self.value(offset))


def sum_squares(residual_P: np.ndarray) -> float:
    """The sum of squares of a residual."""
    return float((residual_P**2).sum())


def profile_smooth_exponent(rule: Law, pairs: Pairs) -> ProfileCurve:
    """The profile of a law's one exponent; it is continuous at 0, where the law tends to a logarithm."""

    def squares(exponent: float) -> float:
        return sum_squares(residual(rule.smooth(pairs.small_P, pairs.large_P, exponent), pairs.cof_P))

    return _profile_exponent(best_exponent(rule, *pairs), squares)


def _profile_exponent(estimate: float, squares: Callable[[float], float]) -> ProfileCurve:
    return ProfileCurve(estimate, squares, step=0.01, furthest=(-EXPONENTS - estimate, EXPONENTS - estimate))


def profile_parameter(rule: Law, pairs: Pairs, params_K: np.ndarray, name: str) -> ProfileCurve:
    """The profile of one parameter around the estimate `params_K` of all."""
    k = rule.parameters.index(name)
    estimate, squares = float(params_K[k]), _Refit(rule, pairs, params_K, k).squares
    if name in rule.exponents:
        return _profile_exponent(estimate, squares)
    if rule.exponents and name == "a":  # multiplies powers: it spans magnitudes and keeps its sign
        return ProfileCurve(estimate, squares, step=0.01, is_relative=True)
    return ProfileCurve(estimate, squares, step=1e-3 * float(np.ptp(pairs.cof_P)))


class _Refit:
    """Refits a law with one parameter fixed.

    The free exponents are searched, and the free linear parameters follow from them by linear least
    squares. A search starts from the exponents of the last one, which is close when values are visited
    in small steps.
    """

    def __init__(self, rule: Law, pairs: Pairs, params_K: np.ndarray, fixed: int):
        free_J = [k for k in range(len(rule.parameters)) if k != fixed]
        self.rule, self.pairs, self.params_K, self.fixed = rule, pairs, params_K, fixed
        self.exponents_J = [k for k in free_J if _is_exponent(rule, k)]
        self.linear_J = [k for k in free_J if not _is_exponent(rule, k)]
        self.start_J = params_K[self.exponents_J]

    def squares(self, value: float) -> float:
        """The least residual sum of squares with the fixed parameter at this value."""
        if not self.exponents_J:
            return sum_squares(self._residual(self.start_J, value))
        solution = least_squares(
            self._residual, self.start_J, args=(value,), method="lm", xtol=1e-12, ftol=1e-12
        )
        self.start_J = solution.x
        return sum_squares(solution.fun)

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


def _regressors(rule: Law, pairs: Pairs, params_K: np.ndarray, linear_J: list[int]) -> list[np.ndarray]:
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


def fit_linear_parameters(rule: Law, pairs: Pairs, exponent: float) -> np.ndarray:
    """The parameters [K] of the least squares fit of a law whose one exponent is given."""
    params_K = _keep_exponents(rule, np.full(len(rule.parameters), exponent))
    linear_J = [k for k in range(len(params_K)) if not _is_exponent(rule, k)]
    regressors_PJ = np.column_stack(_regressors(rule, pairs, params_K, linear_J))
    # Powers of the sizes may differ by magnitudes: at equal scales the solver drops none as too small.
    scale_J = np.abs(regressors_PJ).max(axis=0)
    params_K[linear_J] = np.linalg.lstsq(regressors_PJ / scale_J, pairs.cof_P, rcond=None)[0] / scale_J
    return params_K


def find_ends(curve: ProfileCurve, threshold: float) -> Bounds:
    """The values at which the residual first crosses the threshold on either side of the estimate."""
    return Bounds(_find_end(curve, threshold, -1), _find_end(curve, threshold, 1))


def _find_end(curve: ProfileCurve, threshold: float, sign: int) -> float | None:
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
    curve: ProfileCurve, threshold: float, sign: int, excess_inside: float
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


def _double_offsets(curve: ProfileCurve, sign: int) -> Iterator[float]:
    """Offsets away from the estimate, each twice the last, up to the furthest."""
    furthest = curve.furthest[0 if sign < 0 else 1]
    for doubling in range(DOUBLINGS):
        offset = sign * curve.step * 2.0**doubling
        if abs(offset) >= abs(furthest):
            yield furthest
            return
        yield offset
