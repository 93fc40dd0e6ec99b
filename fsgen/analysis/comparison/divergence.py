"""Where a policy's text diverges from that of its method's +always, and whether the two reconverge.

Shape legend: P texts (one a prompt).
"""

from collections.abc import Iterator, Mapping, Sequence
from itertools import compress, pairwise

import numpy as np
import polars as pl

from fsgen.analysis import intervals
from fsgen.analysis.intervals import Interval, interval_columns
from fsgen.config.policies import Policy, name_policy

RUN = 5  # equal tokens in a row after which two texts count as reconverged
WINDOWS = (4, 16, 64)  # tokens
EDGES = (0.0, 0.25, 0.5, 1.0, 1.5, 2.0, np.inf)  # of the entropy of a mismatch, nats


def first_difference(one: Sequence[int], other: Sequence[int]) -> int | None:
    """Position of the first token in which two texts differ; None where one begins with the other."""
    return next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), None)


def tokens_to_reconverge(one: Sequence[int], other: Sequence[int]) -> int | None:
    """Tokens that two texts take after a difference until RUN tokens of both are equal again.

    `one` and `other` are what follows the tokens in which they differ; the count is the larger of the
    two, and as small as can be. Equal texts reconverge at once, however short; None where they never do.
    """
    if list(one) == list(other):
        return 0
    first: dict[tuple, int] = {}
    for j in range(len(other) - RUN + 1):
        first.setdefault(tuple(other[j : j + RUN]), j)
    runs = (tuple(one[i : i + RUN]) for i in range(len(one) - RUN + 1))
    return min((max(i, first[run]) for i, run in enumerate(runs) if run in first), default=None)


def divergence_rows(texts: pl.DataFrame, policies: Mapping[str, Policy]) -> Iterator[dict]:
    """Rows of DIVERGENCES, without their pair: where a text leaves that of its method's `+always`.

    Until there both have the same prefix, so the mismatch there is the first that was not routed. It
    counts in the policy's own answer, as rows of its ratios do. Whole texts are compared, because where an
    answer ends depends on what follows it.
    `texts`: policy, prompt_id, token_ids, entropies, in_answer (lists by position), answer (null: none).
    """
    by_key = {(row["policy"], row["prompt_id"]): row for row in texts.iter_rows(named=True)}
    for (name, prompt_id), text in by_key.items():
        routed = by_key[f"{policies[name].method}+always", prompt_id]
        pos = first_difference(text["token_ids"], routed["token_ids"])
        if pos is not None and text["in_answer"][pos]:
            yield name_policy(policies[name]) | {
                "prompt_id": prompt_id,
                "pos": pos,
                "entropy": text["entropies"][pos],
                "tokens_to_reconverge": tokens_to_reconverge(
                    _answer(text, pos + 1), _answer(routed, pos + 1)
                ),
                "same_answer": _have_same_answer(text, routed),
                "token_ids": _answer(text),
            }


def _have_same_answer(text: dict, other: dict) -> bool | None:
    """Whether two texts end with the same answer; None where one has none."""
    if text["answer"] is None or other["answer"] is None:
        return None
    return text["answer"] == other["answer"]


def _answer(text: dict, start: int = 0) -> list[int]:
    """Tokens of a text's answer from position `start` on."""
    return [*compress(text["token_ids"][start:], text["in_answer"][start:])]


def reconvergence_rows(divergences: pl.DataFrame, *, seed: int) -> Iterator[dict]:
    """Rows of RECONVERGENCE but their pair, from rows of `divergence_rows`: by router, and by entropy."""
    ordered = divergences.sort("method", "prompt_id", "policy")
    for (method,), of_method in ordered.group_by("method", maintain_order=True):
        for (router,), events in of_method.group_by("router", maintain_order=True):
            about = {"method": method, "router": router}
            yield from _reconvergence_rows(events, about, 0.0, np.inf, seed)
        distinct = of_method.unique(["prompt_id", "token_ids"], keep="first", maintain_order=True)
        for low, high in pairwise(EDGES):
            events = distinct.filter(pl.col("entropy") >= low, pl.col("entropy") < high)
            yield from _reconvergence_rows(events, {"method": method, "router": "all"}, low, high, seed)


def _reconvergence_rows(
    events: pl.DataFrame, about: dict, low: float, high: float, seed: int
) -> Iterator[dict]:
    """Rows of events with an entropy in [low, high), one for each of WINDOWS; none without events."""
    if not len(events):
        return
    answered = events.filter(pl.col("same_answer").is_not_null())
    same_answer = _share(answered, pl.col("same_answer"), seed)
    about = about | {"entropy_low": low, "entropy_high": high, "events": len(events)}
    about |= interval_columns(same_answer, "same_answer")
    for window in WINDOWS:
        is_back = (pl.col("tokens_to_reconverge") <= window).fill_null(False)
        yield (
            about | {"window": window} | interval_columns(_share(events, is_back, seed), "reconverged_share")
        )


def _share(events: pl.DataFrame, holds: pl.Expr, seed: int) -> Interval | None:
    """Share of the events of which something holds, with an interval over their prompts; None without any."""
    if not len(events):
        return None
    counts = events.group_by("prompt_id", maintain_order=True).agg(held=holds.sum(), events=pl.len())
    return intervals.ratio(counts["held"].to_numpy(), counts["events"].to_numpy(), seed=seed)
