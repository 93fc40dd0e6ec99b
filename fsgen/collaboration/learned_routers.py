"""Routers that learn: the probability of a mismatch from the top probabilities and the entropy.

Shape legend: N positions, K most likely tokens, F = K + 1 features, V support vectors.
A router is fitted on calibration prompts as they are, one row a token, so that its probabilities hold at the
real share of mismatches. FS-GEN's SVM learned from a class-balanced sample, whose probabilities do not.
"""

from typing import NamedTuple

import numpy as np

from fsgen.collaboration.router_input import RouterInput
from fsgen.collaboration.routers import Router
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
    """A learned router as numbers, and how much it was fitted on."""

    weights: Weights
    prompts: int
    tokens: int
    mismatches: int

    @property
    def ranks_in_reverse(self) -> bool:
        """Whether it ranks held-out calibration prompts in reverse: its sigmoid falls."""
        return bool(self.weights.get("slope", 1.0) <= 0)

    def to_json(self) -> dict:
        """Its fields, arrays as lists; `from_json` gives the same numbers back."""
        return self._asdict() | {"weights": {name: array.tolist() for name, array in self.weights.items()}}

    @classmethod
    def from_json(cls, entry: dict) -> "FittedRouter":
        """A fitted router from what `to_json` returned."""
        weights = {name: np.array(values, dtype=np.float64) for name, values in entry["weights"].items()}
        return cls(**entry | {"weights": weights})


def features(record: RouterInput) -> np.ndarray:
    """The K highest probabilities, falling, and the entropy in nats, [N, F]."""
    return np.column_stack([record.probability_NK, record.entropy_N.astype(np.float64)])


def logistic(record: RouterInput, mean, scale, coefficients, intercept) -> np.ndarray:
    """P(mismatch) by logistic regression, [N]."""
    standard_NF = (features(record) - mean) / scale
    # row by row, not by a matrix product, whose rounding depends on how many rows there are
    return _sigmoid((standard_NF * coefficients).sum(axis=1) + intercept)


def svm(record: RouterInput, mean, scale, support, dual, gamma, intercept, slope, offset) -> np.ndarray:
    """P(mismatch) by a support vector machine with radial kernel, through Platt's sigmoid, [N]."""
    standard_NF = (features(record) - mean) / scale
    decision_N = np.empty(len(standard_NF))
    step = max(1, AT_ONCE // support.size)
    for first in range(0, len(standard_NF), step):
        rows = slice(first, first + step)
        distance_NV = ((standard_NF[rows, None] - support) ** 2).sum(axis=-1)
        decision_N[rows] = (np.exp(-gamma * distance_NV) * dual).sum(axis=1) + intercept
    return _sigmoid(slope * decision_N + offset)


def fit_logistic(training: TrainingSet, seed: int) -> FittedRouter:
    """Logistic regression with scikit-learn's ridge of 1 on standardised features."""
    from sklearn.linear_model import LogisticRegression  # a second to import, and only fits need it

    fitted = _fit(LogisticRegression(max_iter=1000), training)
    mean, scale = fitted[0].mean_, fitted[0].scale_
    line = {"coefficients": fitted[1].coef_[0], "intercept": fitted[1].intercept_[0]}
    return _fitted_router(training, {"mean": mean, "scale": scale, **line})


def fit_svm(training: TrainingSet, seed: int) -> FittedRouter:
    """C = 1 and gamma = 1 / F on standardised features of at most 20,000 tokens of sampled prompts.

    The sigmoid that turns decisions into probabilities (Platt 1999) is fitted to held-out decisions.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.svm import SVC

    kept_N = _sampled(training.prompt_N, seed)
    part = TrainingSet(*(column_N[kept_N] for column_N in training))
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
    return _fitted_router(part, weights)


def _fit(model, training: TrainingSet):
    """The model behind a standardiser, fitted; UserError where all positions have the same label."""
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    if training.mismatch_N.all() or not training.mismatch_N.any():
        raise _too_few_mismatches("among its calibration tokens", training)
    return make_pipeline(StandardScaler(), model).fit(training.feature_NF, training.mismatch_N)


def _hold_out(model, training: TrainingSet) -> np.ndarray:
    """Decisions on each fold of prompts by fits on the others, [N]."""
    from sklearn.model_selection import GroupKFold

    folds, decision_N = min(FOLDS, len(np.unique(training.prompt_N))), np.empty(len(training.prompt_N))
    if folds < 2:
        raise _too_few_mismatches("on two calibration prompts at least", training)
    for fit_rows, held_out in GroupKFold(folds).split(training.feature_NF, groups=training.prompt_N):
        fitted = _fit(model, TrainingSet(*(column_N[fit_rows] for column_N in training)))
        decision_N[held_out] = fitted.decision_function(training.feature_NF[held_out])
    return decision_N


def _too_few_mismatches(where: str, training: TrainingSet) -> UserError:
    return UserError(
        f"A learned router needs matches and mismatches {where}, got {training.mismatch_N.sum()} mismatches "
        f"among {len(training.mismatch_N)} tokens of {len(np.unique(training.prompt_N))} prompts; raise "
        "'limit' or 'calibration_share' of the dataset."
    )


def _sampled(prompt_N: np.ndarray, seed: int) -> np.ndarray:
    """Rows of whole prompts in a seeded order, as many prompts as fit into SVM_TOKENS, bool [N]."""
    names, inverse_N, tokens_P = np.unique(prompt_N, return_inverse=True, return_counts=True)
    order_P = np.random.Generator(np.random.PCG64(seed)).permutation(len(names))
    kept_P = order_P[tokens_P[order_P].cumsum() <= SVM_TOKENS]
    return np.isin(inverse_N, kept_P)


def _fitted_router(training: TrainingSet, weights: dict) -> FittedRouter:
    arrays = {name: np.asarray(value, dtype=np.float64) for name, value in weights.items()}
    prompts = len(np.unique(training.prompt_N))
    return FittedRouter(arrays, prompts, len(training.prompt_N), int(training.mismatch_N.sum()))


def _sigmoid(x_N: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x_N))


LOGISTIC = Router(score=logistic, fit=fit_logistic)
SVM = Router(score=svm, fit=fit_svm)
