"""Laws of CoF in the sizes of the two models, fitted by least squares on CoF itself.

Shape legend: P pairs, K parameters of a law. Sizes are in billions of parameters; L is the large
model's, S the small one's, r = L / S.
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np
from scipy.optimize import least_squares, minimize_scalar

from fsgen.typed import Complaint

IDENTIFIED_FROM = 6  # distinct models; pairs share models, so fewer tell nothing about other models
AUTHORS_BOUND = 0.05  # FS-GEN's fit keeps a, alpha and b at or above it
EXPONENTS = 8.0  # |p| up to which `gap` is searched


class Law(NamedTuple):
    """A curve, how its parameters are found, and what the sizes must vary in for that."""

    parameters: tuple[str, ...]
    predict: Callable[..., np.ndarray]
    """CoF [P] from S [P], L [P] and the parameters in order."""
    solve: Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]
    """Parameters [K] from S [P], L [P] and CoF [P]; RuntimeError where the search does not end."""
    terms: Callable[[np.ndarray, np.ndarray], list]
    """Regressors [K][P] of the law or its linearisation in log sizes: independent, or no fit."""
    is_at_bound: Callable[[np.ndarray], bool] = lambda params_K: False


class Fit(NamedTuple):
    """A fitted law; None wherever the points cannot tell."""

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
    found = least_squares(
        lambda params_K: power(small_P, large_P, *params_K) - cof_P,
        x0=[1.0, 1.0, 1.0],
        bounds=(AUTHORS_BOUND, np.inf),
    )
    return _ended(found)


def _solve_linear(terms: Callable) -> Callable:
    def solve(small_P, large_P, cof_P):
        return np.linalg.lstsq(np.column_stack(terms(small_P, large_P)), cof_P, rcond=None)[0]

    return solve


def _solve_product(small_P, large_P, cof_P):
    """Levenberg-Marquardt from the fit in logarithms, sizes centred so that a keeps its scale."""
    small, large = _centre(small_P), _centre(large_P)
    logs_PK = np.column_stack(_two_size_terms(small_P / small, large_P / large))
    start_K = np.linalg.lstsq(logs_PK, np.log10(np.maximum(cof_P, 1e-3)), rcond=None)[0]
    found = least_squares(
        lambda params_K: product(small_P / small, large_P / large, *params_K) - cof_P,
        x0=[10 ** start_K[0], start_K[1], -start_K[2]],
        method="lm",
        **dict.fromkeys(("ftol", "xtol", "gtol"), 1e-14),
    )
    a, p, q = _ended(found)
    return np.array([a * large**-p * small**q, p, q])


def _solve_gap(small_P, large_P, cof_P):
    """For a given p the best a is linear; so p alone is searched, first on a grid, then finely."""
    centre = _centre(np.concatenate([small_P, large_P]))

    def squares(p: float) -> float:
        curve_P = gap(small_P / centre, large_P / centre, 1.0, p)
        return float(((cof_P - _slope(curve_P, cof_P) * curve_P) ** 2).sum())

    grid = np.linspace(-EXPONENTS, EXPONENTS, 320)  # an even number of steps around p = 0
    best = int(np.argmin([squares(p) for p in grid]))
    around = (grid[max(best - 1, 0)], grid[min(best + 1, len(grid) - 1)])
    p = minimize_scalar(squares, bounds=around, method="bounded", options={"xatol": 1e-12}).x
    curve_P = gap(small_P / centre, large_P / centre, 1.0, p)
    return np.array([_slope(curve_P, cof_P) * centre**p, p])


def _slope(curve_P, cof_P):
    return (curve_P @ cof_P) / (curve_P @ curve_P)


def _centre(sizes: np.ndarray) -> float:
    return float(np.exp(np.log(sizes).mean()))


def _ended(found) -> np.ndarray:
    if not found.success:
        raise RuntimeError(found.message)
    return found.x


def _ratio_terms(small_P, large_P):
    return [np.ones_like(small_P), np.log10(large_P / small_P)]


def _power_terms(small_P, large_P):
    return [*_ratio_terms(small_P, large_P), np.log10(large_P / small_P) ** 2]


def _two_size_terms(small_P, large_P):
    return [np.ones_like(small_P), np.log10(large_P), np.log10(small_P)]


def _gap_terms(small_P, large_P):
    return [np.log(large_P) - np.log(small_P), np.log(large_P) ** 2 - np.log(small_P) ** 2]


LAWS = {
    "power": Law(
        ("a", "alpha", "b"),
        power,
        _solve_power,
        _power_terms,
        is_at_bound=lambda params_K: (params_K < AUTHORS_BOUND * 1.001).any(),
    ),
    "log_ratio": Law(("c0", "c1"), log_ratio, _solve_linear(_ratio_terms), _ratio_terms),
    "two_size": Law(("c0", "c1", "c2"), two_size, _solve_linear(_two_size_terms), _two_size_terms),
    "product": Law(("a", "p", "q"), product, _solve_product, _two_size_terms),
    "gap": Law(
        ("a", "p"),
        gap,
        _solve_gap,
        _gap_terms,
        is_at_bound=lambda params_K: abs(params_K[1]) > EXPONENTS * 0.999,
    ),
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
    params_K = _solved(LAWS[law], small_P, large_P, cof_P)
    if params_K is None:
        return Fit(None, None, None, None, None)
    residual_P = cof_P - LAWS[law].predict(small_P, large_P, *params_K)
    return Fit(
        params=dict(zip(LAWS[law].parameters, params_K.tolist(), strict=True)),
        r2=_r2(residual_P, cof_P),
        aicc=_aicc(residual_P, len(params_K) + 1),
        loo_rmse=_loo_rmse(LAWS[law], small_P, large_P, cof_P),
        at_bound=bool(LAWS[law].is_at_bound(params_K)),
    )


def _solved(law: Law, small_P, large_P, cof_P) -> np.ndarray | None:
    """The parameters [K], or None where the pairs do not determine them."""
    wanted = len(law.parameters)
    if len(cof_P) <= wanted or not cof_P.any():
        return None
    if np.linalg.matrix_rank(np.column_stack(law.terms(small_P, large_P))) < wanted:
        return None
    try:
        params_K = law.solve(small_P, large_P, cof_P)
    except RuntimeError:
        return None
    return params_K if np.isfinite(params_K).all() else None


def _r2(residual_P: np.ndarray, cof_P: np.ndarray) -> float | None:
    total = ((cof_P - cof_P.mean()) ** 2).sum()
    return float(1 - (residual_P**2).sum() / total) if np.ptp(cof_P) > 0 else None


def _aicc(residual_P: np.ndarray, counted: int) -> float | None:
    pairs, squares = len(residual_P), (residual_P**2).sum()
    spare = pairs - counted - 1
    if spare < 1 or squares == 0:
        return None
    return float(pairs * np.log(squares / pairs) + 2 * counted * pairs / spare)


def _loo_rmse(law: Law, small_P, large_P, cof_P) -> float | None:
    """Leave one pair out; the pairs left may still share its models."""
    squares = []
    for out in range(len(cof_P)):
        kept = [np.delete(x, out) for x in (small_P, large_P, cof_P)]
        params_K = _solved(law, *kept)
        if params_K is None:
            return None
        squares.append((cof_P[out] - law.predict(small_P[out], large_P[out], *params_K)) ** 2)
    return float(np.sqrt(np.mean(squares)))


def scaling_table(metrics: Mapping[str, Mapping]) -> dict:
    """Points and laws of every dataset and method, as metrics/scaling.json holds them.

    `metrics` maps datasets to what metrics/<dataset>.json holds. `identified` says whether at least
    six distinct models stand behind the points; below that a law describes them and no others.
    Sizes are non-embedding parameters in billions. Raises Complaint on a pair without its models.
    """
    table: dict[str, dict] = {}
    for dataset, content in sorted(metrics.items()):
        methods = sorted({m for pair in content["pairs"].values() for m in pair["cof"]})
        table[dataset] = {method: _series(dataset, content, method) for method in methods}
    return table


def _series(dataset: str, content: Mapping, method: str) -> dict:
    pairs = {n: p for n, p in sorted(content["pairs"].items()) if method in p["cof"]}
    models = {pair[role] for pair in pairs.values() for role in ("small", "large")}
    points = [_point(dataset, content, name, method) for name in pairs]
    columns = [[point[key] for point in points] for key in ("small", "large", "cof")]
    return {
        "n": len(points),
        "distinct_models": len(models),
        "identified": len(models) >= IDENTIFIED_FROM,
        "points": points,
        "laws": {law: fit(law, *columns)._asdict() for law in LAWS},
    }


def _point(dataset: str, content: Mapping, name: str, method: str) -> dict:
    pair, cof = content["pairs"][name], content["pairs"][name]["cof"][method]
    sizes = {}
    for role in ("small", "large"):
        parameters = content["models"].get(pair[role], {}).get("parameters")
        if not parameters:
            raise Complaint(
                f"metrics/{dataset}.json should give the parameters of '{pair[role]}', the {role} "
                f"model of {name}, got {parameters}; rerun the stages 'model' and 'evaluate'."
            )
        sizes[role] = parameters / 1e9
    return {"pair": name, **sizes, "cof": cof["value"], "low": cof["low"], "high": cof["high"]}
