"""When a policy leaves dumped text, what the dump then is worth, and whether texts that parted meet again.

Shape legend: P texts (one a prompt).
"""

import warnings
from collections.abc import Iterator, Mapping, Sequence
from itertools import compress, pairwise
from typing import NamedTuple

import numpy as np
import polars as pl
import pyarrow as pa
from scipy import stats

from fsgen import intervals, store
from fsgen.compared.columns import PAIR, POLICY, named
from fsgen.intervals import ENDS, told
from fsgen.policies import Policy

ESTIMATES = store.schema(
    [
        PAIR,
        *POLICY,
        ("quantity", pa.string(), "call_ratio or intervention_ratio"),
        ("estimate", pa.float64(), "off-policy: counted along the default speaker's dumped text"),
        ("estimate_low", pa.float64(), "lower end of its 95 % interval over prompts"),
        ("estimate_high", pa.float64(), "upper end"),
        ("exact", pa.float64(), "on-policy: counted on the text that the policy wrote"),
        ("exact_low", pa.float64(), "lower end"),
        ("exact_high", pa.float64(), "upper end"),
        ("difference", pa.float64(), "estimate less exact, on the same prompts"),
        ("difference_low", pa.float64(), "lower end"),
        ("difference_high", pa.float64(), "upper end"),
    ]
)
SURVIVAL = store.schema(
    [
        PAIR,
        *POLICY,
        ("pos", pa.int64(), "tokens written"),
        ("at_risk", pa.int64(), "texts that go on from there and provably have not been left before"),
        ("survival", pa.float64(), "share of texts that the policy still writes (Kaplan-Meier)"),
        *ENDS,
    ]
)
FORKS = store.schema(
    [
        PAIR,
        *POLICY,
        ("prompt_id", pa.string(), "test prompt"),
        (
            "pos",
            pa.int64(),
            "first mismatch that the policy did not route, against its method's +always, in its own answer",
        ),
        ("entropy", pa.float64(), "entropy of the default speaker there, nats"),
        ("back_after", pa.int64(), "tokens until both answers say the same again; null if they never do"),
        (
            "same_answer",
            pa.bool_(),
            "whether both end with the same answer (for code: program), spelt alike; "
            "null where one has none or a judge rates",
        ),
    ]
)
RECONVERGENCE = store.schema(
    [
        PAIR,
        ("method", pa.string(), "method"),
        ("router", pa.string(), "router; `all` for every policy of the method, equal texts once"),
        ("entropy_low", pa.float64(), "lower bound of the mismatch's entropy, nats"),
        ("entropy_high", pa.float64(), "upper bound"),
        ("events", pa.int64(), "texts with such a first unrouted mismatch"),
        ("within", pa.int64(), "tokens within which the texts come together again"),
        ("share", pa.float64(), "share of the events in which they do"),
        *ENDS,
        ("same_answer", pa.float64(), "share with the same final answer, spelt alike, where both have one"),
        ("same_low", pa.float64(), "lower end"),
        ("same_high", pa.float64(), "upper end"),
    ]
)
RUN = 5  # equal tokens in a row with which two texts are said to have come together again


WITHIN = (4, 16, 64)  # tokens
EDGES = (0.0, 0.25, 0.5, 1.0, 1.5, 2.0, np.inf)  # of the entropy of a mismatch, nats


class Survival(NamedTuple):
    """Kaplan and Meier's estimate at some positions; the ends are nan where it has none."""

    at_risk: np.ndarray
    """Texts that go on from the position and have not been left before it, as far as can be proven."""
    share: np.ndarray
    low: np.ndarray
    high: np.ndarray


def survive(kept_P: np.ndarray, is_left_P: np.ndarray, pos: np.ndarray) -> Survival:
    """Share of texts that a policy still writes after `pos` tokens (Kaplan and Meier 1958).

    `kept_P` counts the tokens up to the one at which the policy leaves (`is_left_P`). Else the text
    is lost from sight there, which is censoring: it ends, or whether the policy writes the next of
    its tokens is not proven. 95 % intervals by Greenwood's formula on the log-log scale; prompts
    are independent.
    """
    sample = stats.CensoredData(uncensored=kept_P[is_left_P], right=kept_P[~is_left_P])
    curve = stats.ecdf(sample).sf
    at_risk = (kept_P[:, None] > pos).sum(axis=0)
    if not is_left_P.any():  # never left: no spread to speak of
        unknown = np.full(len(pos), np.nan)
        return Survival(at_risk, np.ones(len(pos)), unknown, unknown)
    with warnings.catch_warnings():  # log(-log 1) where nobody has left yet, log 0 where all have
        warnings.simplefilter("ignore", RuntimeWarning)
        band = curve.confidence_interval(confidence_level=0.95, method="log-log")
    return Survival(at_risk, *(step.evaluate(pos) for step in (curve, band.low, band.high)))


def first_difference(one: Sequence[int], other: Sequence[int]) -> int | None:
    """Position of the first token in which two texts differ; None where one begins with the other."""
    return next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), None)


def reunite(one: Sequence[int], other: Sequence[int]) -> int | None:
    """How many tokens two texts take, once they differ, until RUN tokens of both are the same again.

    `one` and `other` are what follows the tokens in which they differ; the count is the larger of the
    two, and as small as can be. Equal texts reunite at once, however short; None where they never do.
    """
    if list(one) == list(other):
        return 0
    first: dict[tuple, int] = {}
    for j in range(len(other) - RUN + 1):
        first.setdefault(tuple(other[j : j + RUN]), j)
    runs = (tuple(one[i : i + RUN]) for i in range(len(one) - RUN + 1))
    return min((max(i, first[run]) for i, run in enumerate(runs) if run in first), default=None)


def estimate_rows(
    estimates: pl.DataFrame, policies: pl.DataFrame, known: Mapping[str, Policy], *, seed: int
) -> Iterator[dict]:
    """Rows of ESTIMATES but their pair, from counts per prompt along dumped texts and on policies' own."""
    both = estimates.join(policies, on=["policy", "prompt_id"], suffix="_exact", validate="1:1")
    for (name,), rows in both.sort("policy", "prompt_id").group_by("policy", maintain_order=True):
        if known[name].router in ("always", "never"):
            continue  # nothing to estimate
        for quantity, column in {"call_ratio": "calls", "intervention_ratio": "interventions"}.items():
            names = (column, "tokens", f"{column}_exact", "tokens_exact")
            counts_P4 = rows.select(names).to_numpy().astype(np.float64)
            found = {
                "estimate": intervals.ratio(counts_P4[:, 0], counts_P4[:, 1], seed=seed),
                "exact": intervals.ratio(counts_P4[:, 2], counts_P4[:, 3], seed=seed),
                "difference": intervals.bca(gap, counts_P4, seed=seed, limits=(-1.0, 1.0)),
            }
            row = named(known[name]) | {"quantity": quantity}
            for key, interval in found.items():
                row |= told(interval, key, f"{key}_low", f"{key}_high")
            yield row


def gap(sums_X: np.ndarray) -> np.ndarray:
    """Difference of two ratios, of the counts in the first two and in the last two columns."""
    return sums_X[..., 0] / sums_X[..., 1] - sums_X[..., 2] / sums_X[..., 3]


def survival_rows(kept: pl.DataFrame, known: Mapping[str, Policy]) -> Iterator[dict]:
    """Rows of SURVIVAL but their pair; `kept` holds policy, kept (tokens) and is_left of every text."""
    pos = np.unique(np.linspace(0, kept["kept"].max(), 41).round().astype(np.int64))
    for (name,), rows in kept.group_by("policy", maintain_order=True):
        found = survive(rows["kept"].to_numpy(), rows["is_left"].to_numpy(), pos)
        for at, *values in zip(pos.tolist(), *(column.tolist() for column in found), strict=True):
            known_values = (None if value != value else value for value in values)
            numbers = dict(zip(("at_risk", "survival", "low", "high"), known_values, strict=True))
            yield named(known[name]) | {"pos": at} | numbers


def fork_rows(texts: pl.DataFrame, known: Mapping[str, Policy]) -> Iterator[dict]:
    """Rows of FORKS but their pair, with the answer: where a text parts from that of its method's `+always`.

    Until there both have the same prefix, so the mismatch there is the first that was not routed. It
    counts in the policy's own answer, as rows of its ratios do. Whole texts are compared, for where an
    answer ends depends on what follows it: two texts alike so far may differ in that.
    `texts`: policy, prompt_id, token_ids, entropies, in_answer (lists by position), answer (null: none).
    """
    found = {(row["policy"], row["prompt_id"]): row for row in texts.iter_rows(named=True)}
    for (name, prompt_id), row in found.items():
        other = found[f"{known[name].method}+always", prompt_id]
        pos = first_difference(row["token_ids"], other["token_ids"])
        if pos is None or not row["in_answer"][pos]:
            continue
        after = (_answer(text, pos + 1) for text in (row, other))
        is_known = row["answer"] is not None and other["answer"] is not None
        yield named(known[name]) | {
            "prompt_id": prompt_id,
            "pos": pos,
            "entropy": row["entropies"][pos],
            "back_after": reunite(*after),
            "same_answer": row["answer"] == other["answer"] if is_known else None,
            "token_ids": _answer(row),
        }


def _answer(text: dict, start: int = 0) -> list[int]:
    """Tokens of a text's answer from position `start` on."""
    return [*compress(text["token_ids"][start:], text["in_answer"][start:])]


def reconvergence_rows(forks: pl.DataFrame, *, seed: int) -> Iterator[dict]:
    """Rows of RECONVERGENCE but their pair, from rows of `fork_rows`: by router, and by entropy."""
    ordered = forks.sort("method", "prompt_id", "policy")
    for (method,), mine in ordered.group_by("method", maintain_order=True):
        for (router,), own in mine.group_by("router", maintain_order=True):
            yield from _reunions(own, {"method": method, "router": router}, 0.0, np.inf, seed)
        distinct = mine.unique(["prompt_id", "token_ids"], keep="first", maintain_order=True)
        for low, high in pairwise(EDGES):
            bin_ = distinct.filter(pl.col("entropy") >= low, pl.col("entropy") < high)
            yield from _reunions(bin_, {"method": method, "router": "all"}, low, high, seed)


def _reunions(events: pl.DataFrame, about: dict, low: float, high: float, seed: int) -> Iterator[dict]:
    """One bin's rows, an entry of WITHIN each; none without an event."""
    if not len(events):
        return
    about = about | {"entropy_low": low, "entropy_high": high, "events": len(events)}
    about |= _share(events.filter(pl.col("same_answer").is_not_null()), pl.col("same_answer"), seed, "same_")
    for within in WITHIN:
        is_back = (pl.col("back_after") <= within).fill_null(False)
        yield about | {"within": within} | _share(events, is_back, seed, "")


def _share(events: pl.DataFrame, is_so: pl.Expr, seed: int, prefix: str) -> dict:
    """Share of the events with an interval over their prompts; null without an event."""
    names = ("same_answer" if prefix else "share", f"{prefix}low", f"{prefix}high")
    if not len(events):
        return dict.fromkeys(names)
    counts = events.group_by("prompt_id", maintain_order=True).agg(so=is_so.sum(), all=pl.len())
    return told(intervals.ratio(counts["so"].to_numpy(), counts["all"].to_numpy(), seed=seed), *names)
