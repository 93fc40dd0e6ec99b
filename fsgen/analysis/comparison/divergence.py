"""When a policy leaves dumped text, what the dump then is worth, and whether texts that parted meet again.

Shape legend: P texts (one a prompt).
"""

from collections.abc import Iterator, Mapping, Sequence
from itertools import compress, pairwise

import numpy as np
import polars as pl
import pyarrow as pa

from fsgen.analysis import intervals
from fsgen.analysis.intervals import CI_COLUMNS, interval_columns
from fsgen.config.policies import Policy, name_policy
from fsgen.tables import parquet
from fsgen.tables.columns import PAIR, POLICY

FORKS = parquet.schema(
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
RECONVERGENCE = parquet.schema(
    [
        PAIR,
        ("method", pa.string(), "method"),
        ("router", pa.string(), "router; `all` for every policy of the method, equal texts once"),
        ("entropy_low", pa.float64(), "lower bound of the mismatch's entropy, nats"),
        ("entropy_high", pa.float64(), "upper bound"),
        ("events", pa.int64(), "texts with such a first unrouted mismatch"),
        ("within", pa.int64(), "tokens within which the texts come together again"),
        ("share", pa.float64(), "share of the events in which they do"),
        *CI_COLUMNS,
        ("same_answer", pa.float64(), "share with the same final answer, spelt alike, where both have one"),
        ("same_low", pa.float64(), "lower end"),
        ("same_high", pa.float64(), "upper end"),
    ]
)
RUN = 5  # equal tokens in a row with which two texts are said to have come together again


WITHIN = (4, 16, 64)  # tokens
EDGES = (0.0, 0.25, 0.5, 1.0, 1.5, 2.0, np.inf)  # of the entropy of a mismatch, nats


def first_difference(one: Sequence[int], other: Sequence[int]) -> int | None:
    """Position of the first token in which two texts differ; None where one begins with the other."""
    return next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), None)


def tokens_to_reconverge(one: Sequence[int], other: Sequence[int]) -> int | None:
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
        yield name_policy(known[name]) | {
            "prompt_id": prompt_id,
            "pos": pos,
            "entropy": row["entropies"][pos],
            "back_after": tokens_to_reconverge(*after),
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
    return interval_columns(
        intervals.ratio(counts["so"].to_numpy(), counts["all"].to_numpy(), seed=seed), *names
    )
