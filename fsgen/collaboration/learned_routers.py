"""Routers that learn: the chance of a mismatch from the top probabilities and the entropy.

Shape legend: N positions, K most likely tokens, F = K + 1 features, V support vectors. A router is
fitted on calibration prompts as they are, one row a token, so that what it says is a chance at the
real share of mismatches; FS-GEN's SVM learnt from a class-balanced sample, whose chances are not.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from fsgen.collaboration.router_input import RouterInput
from fsgen.errors import UserError

FOLDS = 5  # in which a prompt's tokens stay together
SVM_TOKENS = 20_000  # the fit takes time with the square of them
AT_ONCE = 1 << 22  # numbers in memory while support vectors are compared

Weights = dict[str, np.ndarray]


class TrainingSet(NamedTuple):
    """Calibration positions to learn from."""

    feature_NF: np.ndarray
    mismatch_N: np.ndarray
    prompt_N: np.ndarray
    """Prompt ids of the rows."""


class FittedRouter(NamedTuple):
    """A learned router as numbers, and how much it learnt from."""

    weights: Weights
    prompts: int
    tokens: int
    mismatches: int


def features(seen: RouterInput) -> np.ndarray:
    """The K highest probabilities, falling, and the entropy in nats, [N, F]."""
    return np.column_stack([seen.probability_NK, seen.entropy_N.astype(np.float64)])


def logistic(seen: RouterInput, mean, scale, coefficients, intercept) -> np.ndarray:
    """P(mismatch) by logistic regression, [N]."""
    standard_NF = (features(seen) - mean) / scale
    # row by row, not by a matrix product, whose rounding depends on how many rows there are
    return _sigmoid((standard_NF * coefficients).sum(axis=1) + intercept)


def svm(seen: RouterInput, mean, scale, support, dual, gamma, intercept, slope, offset) -> np.ndarray:
    """P(mismatch) by a support vector machine with radial kernel, through Platt's sigmoid, [N]."""
    standard_NF = (features(seen) - mean) / scale
    decision_N = np.empty(len(standard_NF))
    step = max(1, AT_ONCE // support.size)
    for first in range(0, len(standard_NF), step):
        rows = slice(first, first + step)
        distance_NV = ((standard_NF[rows, None] - support) ** 2).sum(axis=-1)
        decision_N[rows] = (np.exp(-gamma * distance_NV) * dual).sum(axis=1) + intercept
    return _sigmoid(slope * decision_N + offset)


def fit_logistic(lesson: TrainingSet, seed: int) -> FittedRouter:
    """Logistic regression with scikit-learn's ridge of 1 on standardised features."""
    from sklearn.linear_model import LogisticRegression  # a second to import, and only fits need it

    fitted = _fit(LogisticRegression(max_iter=1000), lesson)
    mean, scale = fitted[0].mean_, fitted[0].scale_
    line = {"coefficients": fitted[1].coef_[0], "intercept": fitted[1].intercept_[0]}
    return _told(lesson, {"mean": mean, "scale": scale, **line})


def fit_svm(lesson: TrainingSet, seed: int) -> FittedRouter:
    """C = 1 and gamma = 1 / F on standardised features of at most 20,000 tokens of sampled prompts.

    The sigmoid that turns decisions into chances (Platt 1999) is fitted to held-out decisions.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.svm import SVC

    taken_N = _sampled(lesson.prompt_N, seed)
    part = TrainingSet(*(column_N[taken_N] for column_N in lesson))
    fitted = _fit(SVC(C=1.0, gamma="auto"), part)
    decision_N = _hold_out(SVC(C=1.0, gamma="auto"), part)
    platt = LogisticRegression(C=np.inf, max_iter=1000).fit(decision_N[:, None], part.mismatch_N)
    weights = {
        "mean": fitted[0].mean_,
        "scale": fitted[0].scale_,
        "support": fitted[1].support_vectors_,
        "dual": fitted[1].dual_coef_[0],
        "gamma": 1 / part.feature_NF.shape[1],
        "intercept": fitted[1].intercept_[0],
        "slope": platt.coef_[0, 0],
        "offset": platt.intercept_[0],
    }
    return _told(part, weights)


def _fit(model, lesson: TrainingSet):
    """The model behind a standardiser, fitted; Complaint where there is nothing to tell apart."""
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    if lesson.mismatch_N.all() or not lesson.mismatch_N.any():
        raise _nothing_to_learn("among its calibration tokens", lesson)
    return make_pipeline(StandardScaler(), model).fit(lesson.feature_NF, lesson.mismatch_N)


def _hold_out(model, lesson: TrainingSet) -> np.ndarray:
    """Decisions on each fold of prompts by fits on the others, [N]."""
    from sklearn.model_selection import GroupKFold

    folds, decision_N = min(FOLDS, len(np.unique(lesson.prompt_N))), np.empty(len(lesson.prompt_N))
    if folds < 2:
        raise _nothing_to_learn("on two calibration prompts at least", lesson)
    for learnt, rest in GroupKFold(folds).split(lesson.feature_NF, groups=lesson.prompt_N):
        fitted = _fit(model, TrainingSet(*(column_N[learnt] for column_N in lesson)))
        decision_N[rest] = fitted.decision_function(lesson.feature_NF[rest])
    return decision_N


def _nothing_to_learn(where: str, lesson: TrainingSet) -> UserError:
    return UserError(
        f"A learned router needs matches and mismatches {where}, got {lesson.mismatch_N.sum()} mismatches "
        f"among {len(lesson.mismatch_N)} tokens of {len(np.unique(lesson.prompt_N))} prompts; raise 'limit' "
        "or 'calibration' of the dataset."
    )


def _sampled(prompt_N: np.ndarray, seed: int) -> np.ndarray:
    """Rows of whole prompts in a seeded order, as many prompts as fit into SVM_TOKENS, bool [N]."""
    names, inverse_N, tokens_P = np.unique(prompt_N, return_inverse=True, return_counts=True)
    order_P = np.random.Generator(np.random.PCG64(seed)).permutation(len(names))
    kept_P = order_P[tokens_P[order_P].cumsum() <= SVM_TOKENS]
    return np.isin(inverse_N, kept_P)


def _told(lesson: TrainingSet, weights: dict) -> FittedRouter:
    arrays = {name: np.asarray(value, dtype=np.float64) for name, value in weights.items()}
    prompts = len(np.unique(lesson.prompt_N))
    return FittedRouter(arrays, prompts, len(lesson.prompt_N), int(lesson.mismatch_N.sum()))


def _sigmoid(x_N: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x_N))


FITTERS: dict[str, Callable[[TrainingSet, int], FittedRouter]] = {"logistic": fit_logistic, "svm": fit_svm}
