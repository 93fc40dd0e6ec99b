"""Tables that relate scores and positions to the mismatches of one method on one model's text.

Shape legend: N tokens. Rows hold no series (pair, method, writer); the stage adds it.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import polars as pl

from fsgen.analysis.intervals import interval_columns
from fsgen.analysis.uncertainty import discrimination, positions
from fsgen.analysis.uncertainty.discrimination import Ranking

SCORES = ("entropy", "max_probability", "margin", "logistic", "svm")


class ScoredTokens(NamedTuple):
    """The answer tokens of one method on one model's text, prompt by prompt."""

    mismatch_N: np.ndarray
    prompt_N: np.ndarray
    """Prompts as numbers in the order of their names, which would be compared letter by letter."""
    pos_N: np.ndarray
    entropy_N: np.ndarray
    """Of the default model, nats."""
    is_first_N: np.ndarray
    """Whether the token begins its turn."""
    is_start_N: np.ndarray
    """Whether it begins a sentence within its turn."""
    uncertainties: dict[str, np.ndarray]
    """Score to its uncertainty [N], for the scores that are known at all tokens."""

    @classmethod
    def of(cls, rows: pl.DataFrame) -> "ScoredTokens":
        """From rows of the view `router_scores` with is_first and is_start."""
        known = [score for score in SCORES if rows[score].null_count() == 0]
        return cls(
            rows["mismatch"].to_numpy(),
            prompt_ranks(rows),
            rows["pos"].to_numpy(),
            rows["entropy"].to_numpy().astype(np.float64),
            rows["is_first"].to_numpy(),
            rows["is_start"].to_numpy(),
            {
                score: discrimination.uncertainty_of(score, rows[score].to_numpy().astype(np.float64))
                for score in known
            },
        )

    def counts(self) -> dict[str, int]:
        """The columns tokens and prompts."""
        return {"tokens": len(self.mismatch_N), "prompts": len(np.unique(self.prompt_N))}


def prompt_ranks(rows: pl.DataFrame) -> np.ndarray:
    """The rows' prompts as numbers in the order of their names, [N]."""
    return rows["prompt_id"].rank("dense").to_numpy()


def describe(tokens: ScoredTokens, seed: int) -> Iterator[tuple[str, dict]]:
    """Rows of every table of mismatches, each with the table's name."""
    for score, uncertainty_N in tokens.uncertainties.items():
        ranking = discrimination.rank(uncertainty_N, tokens.mismatch_N, tokens.prompt_N, seed=seed)
        yield from _tag("score_discrimination", _discrimination_rows(tokens, score, ranking, seed))
        yield from _tag("score_lorenz", _lorenz_rows(score, ranking))
        yield from _tag("score_calibration", _calibration_rows(tokens, score, seed))
    yield from _tag("mismatch_by_position", _position_rows(tokens, seed))
    yield from _tag("mismatch_by_boundary", _boundary_rows(tokens, seed))
    yield from _tag("mismatch_odds_ratios", _effect_rows(tokens))


def _tag(table: str, rows: Iterator[dict]) -> Iterator[tuple[str, dict]]:
    return ((table, row) for row in rows)


def _discrimination_rows(tokens: ScoredTokens, score: str, ranking: Ranking, seed: int) -> Iterator[dict]:
    """How well a score ranks; of one that is a predicted probability of a mismatch, its Brier score too."""
    metrics = {"auroc": ranking.auroc, "average_precision": ranking.average_precision}
    if score in discrimination.PROBABILITIES:
        metrics["brier"] = discrimination.brier(
            tokens.uncertainties[score], tokens.mismatch_N, tokens.prompt_N, seed=seed
        )
    counts = tokens.counts() | {"mismatches": int(tokens.mismatch_N.sum())}
    for metric, interval in metrics.items():
        yield {"score": score, "metric": metric} | counts | interval_columns(interval, "value")


def _lorenz_rows(score: str, ranking: Ranking) -> Iterator[dict]:
    """Shares of all mismatches in the most uncertain tokens; none where nothing can be ranked."""
    for share, interval in zip(discrimination.SHARES, ranking.lorenz or [], strict=False):
        row = {"score": score, "share_of_tokens": share}
        yield row | interval_columns(interval, "share_of_mismatches")


def _calibration_rows(tokens: ScoredTokens, score: str, seed: int) -> Iterator[dict]:
    """Mismatch rates by decile of a score, with the predicted rate of a probability."""
    is_probability = score in discrimination.PROBABILITIES
    deciles = discrimination.deciles(
        tokens.uncertainties[score], tokens.mismatch_N, tokens.prompt_N, seed=seed
    )
    for number, decile in enumerate(deciles):
        yield {
            "score": score,
            "bin": number,
            "mean_score": decile.mean_uncertainty,
            "is_probability": is_probability,
            "predicted_rate": decile.mean_uncertainty if is_probability else None,
            "tokens": decile.tokens,
            **interval_columns(decile.rate, "observed_rate"),
        }


def _position_rows(tokens: ScoredTokens, seed: int) -> Iterator[dict]:
    """Mismatch rates by stretch of positions, counted from the start and as shares of the answer."""
    scales = {
        "absolute": (tokens.pos_N, positions.doubling_edges(tokens.pos_N)),
        "relative": (positions.relative(tokens.pos_N, tokens.prompt_N), positions.TENTHS),
    }
    for scale, (at_N, edges) in scales.items():
        bins = positions.by_position(
            at_N, edges, tokens.entropy_N, tokens.mismatch_N, tokens.prompt_N, seed=seed
        )
        for number, stretch in enumerate(bins):
            yield {
                "scale": scale,
                "bin": number,
                "bin_low": stretch.low,
                "bin_high": stretch.high,
                "tokens": stretch.tokens,
                "mismatches": stretch.mismatches,
                "mean_entropy": stretch.mean_entropy,
                **interval_columns(stretch.rate, "rate"),
                **interval_columns(stretch.auroc, "auroc"),
            }


def _boundary_rows(tokens: ScoredTokens, seed: int) -> Iterator[dict]:
    """Mismatch rates at first tokens, at sentence starts, and elsewhere."""
    boundaries = {
        "first token": tokens.is_first_N,
        "sentence start": tokens.is_start_N,
        "elsewhere": ~tokens.is_first_N & ~tokens.is_start_N,
    }
    for boundary, is_there_N in boundaries.items():
        if is_there_N.any():
            mismatch_N, prompt_N = tokens.mismatch_N[is_there_N], tokens.prompt_N[is_there_N]
            yield {
                "boundary": boundary,
                "tokens": len(mismatch_N),
                "mismatches": int(mismatch_N.sum()),
                "mean_entropy": float(tokens.entropy_N[is_there_N].mean()),
                **interval_columns(discrimination.rate(mismatch_N, prompt_N, seed=seed), "rate"),
            }


def _effect_rows(tokens: ScoredTokens) -> Iterator[dict]:
    """Effects of position on a mismatch, without and with entropy."""
    position = _position_regressors(tokens)
    entropy = {"per nat of entropy": tokens.entropy_N, "per nat squared": tokens.entropy_N**2}
    for name, regressors in {"position alone": position, "with entropy": position | entropy}.items():
        for effect in positions.effects(regressors, tokens.mismatch_N, tokens.prompt_N):
            yield {
                "regressors": name,
                "term": effect.term,
                "coefficient": effect.coefficient,
                **interval_columns(effect.odds_ratio, "odds_ratio"),
                **tokens.counts(),
            }


def _position_regressors(tokens: ScoredTokens) -> dict[str, np.ndarray]:
    """Position, and the boundaries that have both mismatches and matches; others have no effect."""
    regressors = {"per doubling of position": np.log2(1 + tokens.pos_N)}
    for location, is_there_N in (("first token", tokens.is_first_N), ("sentence start", tokens.is_start_N)):
        if len(np.unique(tokens.mismatch_N[is_there_N])) == 2:
            regressors[location] = is_there_N
    return regressors
