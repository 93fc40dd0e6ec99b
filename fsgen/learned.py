"""Routers that learn: the chance of a mismatch from the top probabilities and the entropy.

Shape legend: N positions, K most likely tokens, F = K + 1 features, V support vectors. A router is
fitted on calibration prompts as they are, one row a token, so that what it says is a chance at the
real share of mismatches; FS-GEN's SVM learnt from a class-balanced sample, whose chances are not.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from fsgen.speakers import Speaker
from fsgen.typed import Complaint

FOLDS = 5  # in which a prompt's tokens stay together
SVM_TOKENS = 20_000  # the fit takes time with the square of them
AT_ONCE = 1 << 22  # numbers in memory while support vectors are compared

Weights = dict[str, np.ndarray]


class Lesson(NamedTuple):
    """Calibration positions to learn from."""

    feature_NF: np.ndarray
    mismatch_N: np.ndarray
    prompt_N: np.ndarray
    """Prompt ids of the rows."""


class Fitted(NamedTuple):
    """A learned router as numbers, and what it says of the prompts that it learnt from.

    `held_out_N` are chances by routers that had not seen the row's prompt: thresholds come from
    them, since of its own prompts a router is too sure. nan at rows that were not sampled.
    """

    weights: Weights
    held_out_N: np.ndarray
    prompts: int
    tokens: int
    mismatches: int


def features(seen: Speaker) -> np.ndarray:
    """The K highest probabilities, falling, and the entropy in nats, [N, F]."""
    return np.column_stack([seen.probability_NK, seen.entropy_N.astype(np.float64)])


def logistic(seen: Speaker, mean, scale, coefficients, intercept) -> np.ndarray:
    """P(mismatch) by logistic regression, [N]."""
    standard_NF = (features(seen) - mean) / scale
    # row by row, not by a matrix product, whose rounding depends on how many rows there are
    return _sigmoid((standard_NF * coefficients).sum(axis=1) + intercept)


def svm(seen: Speaker, mean, scale, support, dual, gamma, intercept, slope, offset) -> np.ndarray:
    """P(mismatch) by a support vector machine with radial kernel, through Platt's sigmoid, [N]."""
    standard_NF = (features(seen) - mean) / scale
    decision_N = np.empty(len(standard_NF))
    step = max(1, AT_ONCE // support.size)
    for first in range(0, len(standard_NF), step):
        rows = slice(first, first + step)
        distance_NV = ((standard_NF[rows, None] - support) ** 2).sum(axis=-1)
        decision_N[rows] = (np.exp(-gamma * distance_NV) * dual).sum(axis=1) + intercept
    return _sigmoid(slope * decision_N + offset)


def fit_logistic(lesson: Lesson, seed: int) -> Fitted:
    """Logistic regression with scikit-learn's ridge of 1 on standardised features."""
    from sklearn.linear_model import LogisticRegression  # a second to import, and only fits need it

    fitted, decision_N = _fit(LogisticRegression(max_iter=1000), lesson)
    mean, scale = fitted[0].mean_, fitted[0].scale_
    line = {"coefficients": fitted[1].coef_[0], "intercept": fitted[1].intercept_[0]}
    return _told(lesson, {"mean": mean, "scale": scale, **line}, _sigmoid(decision_N))


def fit_svm(lesson: Lesson, seed: int) -> Fitted:
    """C = 1 and gamma = 1 / F on standardised features of at most 20,000 tokens of sampled prompts.

    The sigmoid that turns decisions into chances (Platt 1999) is fitted to held-out decisions.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.svm import SVC

    taken = _sampled(lesson.prompt_N, seed)
    part = Lesson(*(column[taken] for column in lesson))
    fitted, decision_N = _fit(SVC(C=1.0, gamma="auto"), part)
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
    held_out_N = np.full(len(lesson.prompt_N), np.nan)
    held_out_N[taken] = _sigmoid(weights["slope"] * decision_N + weights["offset"])
    return _told(part, weights, held_out_N)


def _fit(model, lesson: Lesson) -> tuple:
    """The pipeline fitted on everything, and decisions on each fold of prompts by fits on the others."""
    from sklearn.model_selection import GroupKFold, cross_val_predict
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    folds = min(FOLDS, len(np.unique(lesson.prompt_N)))
    pipeline = make_pipeline(StandardScaler(), model)
    try:
        decision_N = cross_val_predict(
            pipeline,
            lesson.feature_NF,
            lesson.mismatch_N,
            groups=lesson.prompt_N,
            cv=GroupKFold(folds),
            method="decision_function",
        )
    except ValueError as error:  # a fold without a mismatch, or a single prompt
        raise Complaint(
            f"A learned router needs matches and mismatches in all of its {FOLDS} folds of calibration "
            f"prompts, got {lesson.mismatch_N.sum()} mismatches among {len(lesson.mismatch_N)} tokens of "
            f"{len(np.unique(lesson.prompt_N))} prompts; raise 'limit' or 'calibration' of the dataset."
        ) from error
    return pipeline.fit(lesson.feature_NF, lesson.mismatch_N), decision_N


def _sampled(prompt_N: np.ndarray, seed: int) -> np.ndarray:
    """Rows of whole prompts in a seeded order, as many prompts as fit into SVM_TOKENS, bool [N]."""
    names, inverse_N, tokens_P = np.unique(prompt_N, return_inverse=True, return_counts=True)
    order_P = np.random.Generator(np.random.PCG64(seed)).permutation(len(names))
    kept_P = order_P[tokens_P[order_P].cumsum() <= SVM_TOKENS]
    return np.isin(inverse_N, kept_P)


def _told(lesson: Lesson, weights: dict, held_out_N: np.ndarray) -> Fitted:
    arrays = {name: np.asarray(value, dtype=np.float64) for name, value in weights.items()}
    prompts = len(np.unique(lesson.prompt_N))
    return Fitted(arrays, held_out_N, prompts, len(lesson.prompt_N), int(lesson.mismatch_N.sum()))


def _sigmoid(x_N: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x_N))


FITS: dict[str, Callable[[Lesson, int], Fitted]] = {"logistic": fit_logistic, "svm": fit_svm}
