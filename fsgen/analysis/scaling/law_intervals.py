"""How sure a law's parameters are: profile intervals over pairs, and a jackknife over models.

Shape legend: P pairs, K parameters of a law, J some of them, M models.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from scipy.optimize import brentq, least_squares
from scipy.stats import f as f_distribution
from scipy.stats import t as t_distribution

from fsgen.analysis.scaling.laws import EXPONENTS, LAWS, best_exponent, fit_parameters, residual

IDENTIFIED_FROM = 6  # distinct models; pairs share models, so fewer tell nothing about other models
DOUBLINGS = 40  # of the first step away from an estimate, after which an end counts as unbounded


class Bounds(NamedTuple):
    """Ends of an interval; None where the points set no end."""

    low: float | None
    high: float | None


class _Path(NamedTuple):
    """How a profile walks: where a step leads, what is left there, and where to stop looking."""

    value: Callable[[float], float]
    squares: Callable[[float], float]
    step: float
    furthest: tuple[float, float] = (-np.inf, np.inf)


def profile(law: str, small_P, large_P, cof_P, level: float = 0.95) -> dict[str, Bounds]:
    """Profile intervals of a fitted law's parameters, were the pairs' errors independent.

    An interval holds every value with which the best of the other parameters leave a residual sum of
    squares of at most RSS (1 + F / (n - K)), RSS being the least of all and F the quantile at 1 and
    n - K degrees of freedom; for a linear law that is the t interval. Exponents of either sign are
    searched up to `EXPONENTS`: the authors' bound on alpha does not hold here. Where the exponent may
    be 0 the parameters that diverge there have no ends. All ends are None where the pairs do not
    determine the law.
    """
    rule, data = LAWS[law], [np.asarray(x, dtype=np.float64) for x in (small_P, large_P, cof_P)]
    params_K = fit_parameters(law, *data)
    if params_K is None or (rule.smooth is None and rule.is_at_bound(params_K)):
        return dict.fromkeys(rule.parameters, Bounds(None, None))
    if rule.smooth is None:
        least = _squares(data[2] - rule.predict(*data[:2], *params_K))
        threshold = least * _allowance(len(data[2]), len(params_K), level)
        paths = {name: _path(law, data, params_K, name) for name in rule.parameters}
        return {name: _ends(path, threshold) for name, path in paths.items()}
    return _profile_of_one_exponent(law, data, level)


def _profile_of_one_exponent(law: str, data: list, level: float) -> dict[str, Bounds]:
    """The exponent's own profile goes through its limit at 0; the others' exists only off it."""
    rule, (small_P, large_P, cof_P) = LAWS[law], data
    (exponent,) = rule.exponents

    def squares(value: float) -> float:
        return _squares(residual(rule.smooth(small_P, large_P, value), cof_P))

    best = best_exponent(rule, small_P, large_P, cof_P)
    threshold = squares(best) * _allowance(len(cof_P), len(rule.parameters), level)
    walk = _Path(lambda t: best + t, lambda t: squares(best + t), 0.01, (-EXPONENTS - best, EXPONENTS - best))
    bounds = _ends(walk, threshold)
    others = [name for name in rule.parameters if name != exponent]
    if bounds.low is None or bounds.high is None or bounds.low <= 0 <= bounds.high:
        return dict.fromkeys(rule.parameters, Bounds(None, None)) | {exponent: bounds}
    params_K = _linear_given(law, data, best)
    ends = {name: _ends(_path(law, data, params_K, name), threshold) for name in others}
    return {name: ({exponent: bounds} | ends)[name] for name in rule.parameters}


def _linear_given(law: str, data: list, exponent: float) -> np.ndarray:
    """All parameters [K] at this exponent."""
    rule, (small_P, large_P, cof_P) = LAWS[law], data
    params_K = np.array([exponent if name in rule.exponents else 0.0 for name in rule.parameters])
    linear_J = [j for j, name in enumerate(rule.parameters) if name not in rule.exponents]
    curves_PJ = np.column_stack(_curves(law, small_P, large_P, params_K, linear_J))
    scale_J = np.abs(curves_PJ).max(axis=0)
    params_K[linear_J] = np.linalg.lstsq(curves_PJ / scale_J, cof_P, rcond=None)[0] / scale_J
    return params_K


def _curves(law: str, small_P, large_P, params_K: np.ndarray, linear_J: list[int]) -> list:
    """What each of these linear parameters multiplies, given the exponents among `params_K`."""
    rule = LAWS[law]
    off_K = np.array(
        [p if name in rule.exponents else 0.0 for p, name in zip(params_K, rule.parameters, strict=True)]
    )
    return [rule.predict(small_P, large_P, *(off_K + np.eye(len(params_K))[j])) for j in linear_J]


def _path(law: str, data: list, params_K: np.ndarray, name: str) -> _Path:
    """From the estimate of one parameter outwards, all others refitted from where they were last."""
    rule, (small_P, large_P, cof_P) = LAWS[law], data
    at = rule.parameters.index(name)
    exponents_J = [j for j, n in enumerate(rule.parameters) if n in rule.exponents and j != at]
    linear_J = [j for j, n in enumerate(rule.parameters) if n not in rule.exponents and j != at]
    is_scale = bool(rule.exponents) and name == "a"  # spans magnitudes and keeps its sign
    last_J = params_K[exponents_J]

    def value(t: float) -> float:
        return float(params_K[at] * np.exp(t) if is_scale else params_K[at] + t)

    def moved_residual(free_J: np.ndarray, fixed: float) -> np.ndarray:
        point_K = params_K.copy()
        point_K[at], point_K[exponents_J] = fixed, np.clip(free_J, -EXPONENTS, EXPONENTS)
        moved_P = cof_P
        if name not in rule.exponents:
            moved_P = cof_P - fixed * _curves(law, small_P, large_P, point_K, [at])[0]
        return residual(_curves(law, small_P, large_P, point_K, linear_J), moved_P) if linear_J else moved_P

    def squares(t: float) -> float:
        nonlocal last_J
        if not exponents_J:
            return _squares(moved_residual(last_J, value(t)))
        result = least_squares(moved_residual, last_J, args=(value(t),), method="lm", xtol=1e-12, ftol=1e-12)
        last_J = result.x
        return _squares(result.fun)

    if name in rule.exponents:
        return _Path(value, squares, 0.01, (-EXPONENTS - params_K[at], EXPONENTS - params_K[at]))
    return _Path(value, squares, 0.01 if is_scale else 1e-3 * float(np.ptp(cof_P)))


def _squares(residual_P: np.ndarray) -> float:
    return float((residual_P**2).sum())


def _allowance(pairs: int, counted: int, level: float) -> float:
    return 1 + f_distribution.ppf(level, 1, pairs - counted) / (pairs - counted)


def _ends(path: _Path, threshold: float) -> Bounds:
    """Where the residual first crosses the threshold on either side of the estimate."""
    return Bounds(*(_end(path, threshold, sign) for sign in (-1, 1)))


def _end(path: _Path, threshold: float, sign: int) -> float | None:
    inside, furthest = 0.0, path.furthest[(sign + 1) // 2]
    if path.squares(0.0) >= threshold:  # exact points: nothing is left, nothing is open
        return path.value(0.0)
    for doubling in range(DOUBLINGS):
        outside = sign * path.step * 2.0**doubling
        if abs(outside) > abs(furthest):
            outside = furthest
        if path.squares(outside) > threshold:
            return path.value(brentq(lambda t: path.squares(t) - threshold, inside, outside, xtol=1e-12))
        if outside == furthest:
            return None
        inside = outside
    return None


def jackknife(
    law: str, small_P, large_P, cof_P, names_P2: np.ndarray, level: float = 0.95
) -> dict[str, Bounds]:
    """Intervals of a law's parameters for other models than these: each of M left out with all its pairs.

    `names_P2` holds each pair's two models. The half width is t at M - 1 degrees of freedom times the
    jackknife's standard error, which counts a pair's own error twice and so errs towards width. All ends
    are None below `IDENTIFIED_FROM` models, where the estimate lies on its bound, and where the law is not
    determined without some model.
    """
    rule, models = LAWS[law], np.unique(names_P2)
    nothing = dict.fromkeys(rule.parameters, Bounds(None, None))
    params_K = fit_parameters(law, small_P, large_P, cof_P)
    if params_K is None or len(models) < IDENTIFIED_FROM or rule.is_at_bound(params_K):
        return nothing
    without = []
    for model in models:
        kept_P = (names_P2 != model).all(axis=1)
        without.append(fit_parameters(law, small_P[kept_P], large_P[kept_P], cof_P[kept_P]))
        if without[-1] is None:
            return nothing
    away_MK = np.array(without) - np.mean(without, axis=0)
    error_K = np.sqrt((len(models) - 1) / len(models) * (away_MK**2).sum(axis=0))
    half_K = t_distribution.ppf((1 + level) / 2, len(models) - 1) * error_K
    ends = zip((params_K - half_K).tolist(), (params_K + half_K).tolist(), strict=True)
    return dict(zip(rule.parameters, map(Bounds._make, ends), strict=True))
