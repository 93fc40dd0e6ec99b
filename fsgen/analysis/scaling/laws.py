"""Laws of CoF in the sizes of the two models, fitted by least squares on CoF itself.

Shape legend: P pairs, K parameters of a law. Sizes are in billions of parameters; L is the large
model's, S the small one's, r = L / S.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from scipy.optimize import least_squares, minimize_scalar

AUTHORS_BOUND = 0.05  # FS-GEN's fit keeps a, alpha and b at or above it
EXPONENTS = 8.0  # |exponent| up to which laws are searched


class Law(NamedTuple):
    """A curve, how its parameters are found, and what the sizes must vary in for that."""

    parameters: tuple[str, ...]
    predict: Callable[..., np.ndarray]
    """CoF [P] from S [P], L [P] and the parameters in order."""
    solve: Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray | None]
    """Parameters [K] from S [P], L [P] and CoF [P]; None where the search does not end."""
    terms: Callable[[np.ndarray, np.ndarray], list]
    """Regressors [K][P] of the law or its linearisation in log sizes: independent, or no fit."""
    exponents: tuple[str, ...] = ()
    """Parameters given which the law is linear in all others."""
    smooth: Callable[[np.ndarray, np.ndarray, float], list] | None = None
    """Regressors [K - 1][P] that span the law at its one exponent, also at 0, where parameters diverge."""
    is_at_bound: Callable[[np.ndarray], bool] = lambda params_K: False


class Fit(NamedTuple):
    """A fitted law; None where the points do not determine it."""

    params: dict[str, float] | None
    r2: float | None
    aicc: float | None
    loo_rmse: float | None
    """Root mean square error of predicting each pair from the others."""
    at_bound: bool | None
    """Whether a parameter lies on the edge of where it was searched."""


def power(small_P, large_P, a, alpha, b):
    """-a r^-alpha + b, FS-GEN's law (arXiv 2406.12295)."""
    return -a * (large_P / small_P) ** -alpha + b


def log_ratio(small_P, large_P, c0, c1):
    """c0 + c1 log10 r, to which `power` tends as its alpha goes to 0."""
    return c0 + c1 * np.log10(large_P / small_P)


def two_size(small_P, large_P, c0, c1, c2):
    """c0 + c1 log10 L + c2 log10 S, which is `log_ratio` where c1 = -c2."""
    return c0 + c1 * np.log10(large_P) + c2 * np.log10(small_P)


def product(small_P, large_P, a, p, q):
    """a L^p S^-q."""
    return a * large_P**p * small_P**-q


def gap(small_P, large_P, a, p):
    """a (S^-p - L^-p), which no model has with itself."""
    return a * (small_P**-p - large_P**-p)


def _solve_power(small_P, large_P, cof_P):
    """What scipy's curve_fit runs for the authors' p0 = [1, 1, 1] and bounds = (0.05, inf)."""
    result = least_squares(
        lambda params_K: power(small_P, large_P, *params_K) - cof_P,
        x0=[1.0, 1.0, 1.0],
        bounds=(AUTHORS_BOUND, np.inf),
    )
    return result.x if result.success else None


def _solve_linear(terms: Callable) -> Callable:
    return lambda small_P, large_P, cof_P: np.linalg.lstsq(
        np.column_stack(terms(small_P, large_P)), cof_P, rcond=None
    )[0]


def _solve_product(small_P, large_P, cof_P):
    """Levenberg-Marquardt from the fit in logarithms, sizes centred so that a keeps its scale."""
    small, large = _centre(small_P), _centre(large_P)
    logs_PK = np.column_stack(_two_size_terms(small_P / small, large_P / large))
    start_K = np.linalg.lstsq(logs_PK, np.log10(np.maximum(cof_P, 1e-3)), rcond=None)[0]
    result = least_squares(
        lambda params_K: product(small_P / small, large_P / large, *params_K) - cof_P,
        x0=[10 ** start_K[0], start_K[1], -start_K[2]],
        method="lm",
        **dict.fromkeys(("ftol", "xtol", "gtol"), 1e-14),
    )
    a, p, q = result.x
    return np.array([a * large**-p * small**q, p, q]) if result.success else None


def _solve_gap(small_P, large_P, cof_P):
    """For a given p the best a is linear, so p alone is searched; a p of 0 would be no power."""
    centre = _centre(np.concatenate([small_P, large_P]))
    p = best_exponent(LAWS["gap"], small_P, large_P, cof_P) or 1e-12
    curve_P = gap(small_P / centre, large_P / centre, 1.0, p)
    return np.array([(curve_P @ cof_P) / (curve_P @ curve_P) * centre**p, p])


def best_exponent(law: Law, small_P, large_P, cof_P) -> float:
    """The exponent of a law that has one, of either sign: first on a grid, then finely."""

    def squares(exponent: float) -> float:
        return float((residual(law.smooth(small_P, large_P, exponent), cof_P) ** 2).sum())

    grid = np.linspace(-EXPONENTS, EXPONENTS, 321)
    best = int(np.argmin([squares(exponent) for exponent in grid]))
    around = (grid[max(best - 1, 0)], grid[min(best + 1, len(grid) - 1)])
    return float(minimize_scalar(squares, bounds=around, method="bounded", options={"xatol": 1e-12}).x)


def residual(curves: list, cof_P: np.ndarray) -> np.ndarray:
    """CoF [P] less its least squares fit on the regressors [][P]; their scales do not matter."""
    curves_PK = np.column_stack([curve / np.abs(curve).max() for curve in curves])
    return cof_P - curves_PK @ np.linalg.lstsq(curves_PK, cof_P, rcond=None)[0]


def _box_cox(logs_P, exponent):
    """(1 - x^-exponent) / exponent of x = exp(logs), which is their logarithm in the limit at 0."""
    return -np.expm1(-exponent * logs_P) / exponent if exponent else logs_P


def _smooth_power(small_P, large_P, alpha):
    ratio_P = large_P / small_P
    return [np.ones_like(ratio_P), _box_cox(np.log(ratio_P / _centre(ratio_P)), alpha)]


def _smooth_gap(small_P, large_P, p):
    centre = _centre(np.concatenate([small_P, large_P]))
    return [_box_cox(np.log(large_P / centre), p) - _box_cox(np.log(small_P / centre), p)]


def _centre(sizes: np.ndarray) -> float:
    return float(np.exp(np.log(sizes).mean()))


def _ratio_terms(small_P, large_P):
    return [np.ones_like(small_P), np.log10(large_P / small_P)]


def _power_terms(small_P, large_P):
    return [*_ratio_terms(small_P, large_P), np.log10(large_P / small_P) ** 2]


def _two_size_terms(small_P, large_P):
    return [np.ones_like(small_P), np.log10(large_P), np.log10(small_P)]


def _gap_terms(small_P, large_P):
    return [np.log(large_P) - np.log(small_P), np.log(large_P) ** 2 - np.log(small_P) ** 2]


def _is_low(params_K: np.ndarray) -> bool:
    return bool((params_K < AUTHORS_BOUND * 1.001).any())


def _is_far(params_K: np.ndarray) -> bool:
    return bool((np.abs(params_K[1:]) > EXPONENTS * 0.999).any())


LAWS = {
    "power": Law(("a", "alpha", "b"), power, _solve_power, _power_terms, ("alpha",), _smooth_power, _is_low),
    "log_ratio": Law(("c0", "c1"), log_ratio, _solve_linear(_ratio_terms), _ratio_terms),
    "two_size": Law(("c0", "c1", "c2"), two_size, _solve_linear(_two_size_terms), _two_size_terms),
    "product": Law(("a", "p", "q"), product, _solve_product, _two_size_terms, ("p", "q"), None, _is_far),
    "gap": Law(("a", "p"), gap, _solve_gap, _gap_terms, ("p",), _smooth_gap, _is_far),
}


def fit(law: str, small_P: np.ndarray, large_P: np.ndarray, cof_P: np.ndarray) -> Fit:
    """Least squares of a law of `LAWS` on CoF, sizes in billions of parameters.

    Refused, every field None, with fewer than K + 1 pairs (a curve through all its points leaves no
    residual), where the sizes do not vary in K ways, or where no pair has any CoF. loo_rmse is None
    where leaving out some pair would be refused. aicc counts the error variance as a parameter
    (Hurvich and Tsai 1989) and so needs K + 3 pairs; r2 is None where all CoF are equal.
    Raises ValueError unless sizes are positive and CoF finite.
    """
    small_P, large_P, cof_P = (np.asarray(x, dtype=np.float64) for x in (small_P, large_P, cof_P))
    if not ((small_P > 0).all() and (large_P > 0).all() and np.isfinite(cof_P).all()):
        raise ValueError("Expected positive sizes and a finite CoF for every pair.")
    rule, params_K = LAWS[law], fit_parameters(law, small_P, large_P, cof_P)
    if params_K is None:
        return Fit(None, None, None, None, None)
    residual_P = cof_P - rule.predict(small_P, large_P, *params_K)
    return Fit(
        params=dict(zip(rule.parameters, params_K.tolist(), strict=True)),
        r2=_r2(residual_P, cof_P),
        aicc=_aicc(residual_P, len(params_K) + 1),
        loo_rmse=rmse(
            held_out_predictions(law, small_P, large_P, cof_P, ~np.eye(len(cof_P), dtype=bool)), cof_P
        ),
        at_bound=rule.is_at_bound(params_K),
    )


def fit_parameters(law: str, small_P, large_P, cof_P) -> np.ndarray | None:
    """The parameters [K], or None where the pairs do not determine them, see `fit`."""
    rule = LAWS[law]
    if len(cof_P) <= len(rule.parameters) or not cof_P.any():
        return None
    if np.linalg.matrix_rank(np.column_stack(rule.terms(small_P, large_P))) < len(rule.parameters):
        return None
    params_K = rule.solve(small_P, large_P, cof_P)
    return params_K if params_K is not None and np.isfinite(params_K).all() else None


def held_out_predictions(law: str, small_P, large_P, cof_P, kept_PP: np.ndarray) -> np.ndarray | None:
    """Each pair's CoF [P] by a fit to the pairs that its row of `kept_PP` keeps; None if one is refused."""
    predicted_P = np.empty(len(cof_P))
    for kept_P in np.unique(kept_PP, axis=0):
        params_K = fit_parameters(law, small_P[kept_P], large_P[kept_P], cof_P[kept_P])
        if params_K is None:
            return None
        out_P = (kept_PP == kept_P).all(axis=1)
        predicted_P[out_P] = LAWS[law].predict(small_P[out_P], large_P[out_P], *params_K)
    return predicted_P


def rmse(predicted_P: np.ndarray | None, cof_P: np.ndarray) -> float | None:
    """Root mean square error, None of nothing predicted."""
    return None if predicted_P is None else float(np.sqrt(np.mean((cof_P - predicted_P) ** 2)))


def _r2(residual_P: np.ndarray, cof_P: np.ndarray) -> float | None:
    total = ((cof_P - cof_P.mean()) ** 2).sum()
    return float(1 - (residual_P**2).sum() / total) if np.ptp(cof_P) > 0 else None


def _aicc(residual_P: np.ndarray, counted: int) -> float | None:
    pairs, squares = len(residual_P), (residual_P**2).sum()
    spare = pairs - counted - 1
    if spare < 1 or squares == 0:
        return None
    return float(pairs * np.log(squares / pairs) + 2 * counted * pairs / spare)
