"""Mismatches by position in a text, and the effect of position given the small model's entropy.

Shape legend: N tokens, K regressors.
"""

import warnings
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from fsgen.analysis.intervals import Interval
from fsgen.analysis.uncertainty import discrimination

TENTHS = np.arange(11) / 10  # edges rounded as the places of `relative` are: linspace has one beyond 3 / 10


class Bin(NamedTuple):
    """Tokens of one stretch of positions."""

    low: float
    high: float
    tokens: int
    mismatches: int
    rate: Interval
    """Share of mismatches."""
    mean_entropy: float
    auroc: Interval | None
    """How well entropy tells mismatches from matches within the stretch; None without both."""


class Effect(NamedTuple):
    """Effect of a regressor on the odds of a mismatch, with all others fixed."""

    term: str
    coefficient: float
    odds_ratio: Interval
    """With an interval clustered by prompt."""


def by_position(
    pos_N: np.ndarray, edges: np.ndarray, entropy_N, mismatch_N, prompt_N, *, seed: int
) -> list[Bin]:
    """Tokens whose position lies in [edge, next edge), a Bin for every interval that holds any."""
    place_N = np.searchsorted(edges, pos_N, side="right") - 1
    result = []
    for position in np.unique(place_N):
        subset = place_N == position
        columns = entropy_N[subset], mismatch_N[subset], prompt_N[subset]
        result.append(
            Bin(
                low=float(edges[position]),
                high=float(edges[position + 1]),
                tokens=int(subset.sum()),
                mismatches=int(mismatch_N[subset].sum()),
                rate=discrimination.rate(*columns[1:], seed=seed),
                mean_entropy=float(entropy_N[subset].mean()),
                auroc=discrimination.rank(*columns, seed=seed).auroc,
            )
        )
    return result


def doubling_edges(pos_N: np.ndarray) -> np.ndarray:
    """0, 1, 2, 4, 8 and so on beyond the last position."""
    return np.concatenate([[0], 2 ** np.arange(int(pos_N.max()).bit_length() + 1)])


def relative(pos_N: np.ndarray, prompt_N: np.ndarray) -> np.ndarray:
    """Place of a token among its text's tokens as a share in [0, 1), [N]."""
    _, row_N, length_P = np.unique(prompt_N, return_inverse=True, return_counts=True)
    order_N = np.lexsort((pos_N, row_N))
    rank_N = np.empty(len(pos_N))
    rank_N[order_N] = np.arange(len(pos_N)) - np.repeat(length_P.cumsum() - length_P, length_P)
    return rank_N / length_P[row_N]


def effects(
    regressors: Mapping[str, np.ndarray], mismatch_N: np.ndarray, prompt_N: np.ndarray
) -> list[Effect]:
    """Logistic regression of mismatch on all regressors together, standard errors clustered by prompt.

    95 % intervals by t quantiles with as many degrees of freedom as prompts less one (Cameron and
    Miller 2015, Journal of Human Resources 50: 317-372, section VI). Empty where the regression is
    not determined: a regressor without variation or a combination of others, or outcomes that they
    separate completely.
    """
    from statsmodels.genmod.families import Binomial  # a second to import
    from statsmodels.genmod.generalized_linear_model import GLM

    design_NK = np.column_stack([np.ones(len(mismatch_N)), *regressors.values()]).astype(np.float64)
    clusters = len(np.unique(prompt_N))
    if clusters < 2 or np.linalg.matrix_rank(design_NK) < design_NK.shape[1]:
        return []
    _, group_N = np.unique(prompt_N, return_inverse=True)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # separation and failed convergence are warnings there
            model = GLM(mismatch_N.astype(np.float64), design_NK, family=Binomial())
            result = model.fit(cov_type="cluster", cov_kwds={"groups": group_N}, use_t=True)
            ends_K2 = np.exp(result.conf_int())
    except (Warning, ValueError, np.linalg.LinAlgError, OverflowError):
        return []
    numbers = zip(regressors, result.params[1:], ends_K2[1:], strict=True)
    return [Effect(n, float(c), Interval(float(np.exp(c)), *map(float, ends))) for n, c, ends in numbers]
