"""Trunks: texts that are already dumped, and how far along them each policy goes without a model.

Shape legend: N rows (positions of dumped texts).
On its speaker's own text and on the large model's, a policy's decision is arithmetic on the dump as long
as the fused token is proven. So a rider follows a trunk, changes to the other where the two still agree,
and falls off where it writes a token that neither holds, or where nothing is proven.
"""

import hashlib
from typing import NamedTuple

import numpy as np
import polars as pl

from fsgen import fusion, routers, store
from fsgen.policies import Method, Policy
from fsgen.settings import Settings

KEY = ["prompt_id", "turn", "pos"]
SEEN = ["max_logit", "second", "logsumexp", "entropy"]


class Rider(NamedTuple):
    """A policy ready to run."""

    policy: Policy
    method: Method
    gate: routers.Gate


class Ride(NamedTuple):
    """A rider on one prompt, as far as the trunks carry it."""

    prompt_id: str
    rows: np.ndarray
    """Its decisions so far, rows of its method's trunks and of `called`, one a position."""
    ids: list[int]
    """Its text so far."""
    finish_reason: str | None
    """How a trunk that it followed to the end has ended; None where it fell off."""


class Trunk(NamedTuple):
    """Where one dumped text stands among the rows of its method."""

    first: int
    ids: list[int]
    finish_reason: str


def open_trunks(settings: Settings, pair: str, dataset: str, names: list[str]) -> dict[str, pl.DataFrame]:
    """Method to the rows of its trunks on these prompts: the speaker's own text (0) and the large one's (1).

    Sorted by trunk, prompt and position; tails are cut off.
    """
    members = settings.pairs[pair].members()
    wanted = pl.col("prompt_id").is_in(names)
    fused = store.read(f"data/fused/{pair}/{dataset}.parquet").filter(wanted)
    ends = {
        role: store.read(f"data/dumps/{model}/{dataset}/texts-*.parquet")
        .filter(wanted)
        .select("prompt_id", "turn", "finish_reason", written=pl.col("tokens") - pl.col("tail"))
        for role, model in members.items()
    }
    reads = store.read(f"data/small/{pair}/{dataset}/reads-*.parquet").filter(wanted, writer="large")
    rows = {}
    for name, method in settings.methods_of(pair).items():
        if method.rule == "speculative":
            continue  # its policies write the large model's text
        speaker = fusion.speaker(method)
        own = store.read(f"data/dumps/{members[speaker]}/{dataset}/tokens-*.parquet").filter(wanted)
        parts = []
        for trunk, (writer, seen) in enumerate([(speaker, own), ("large", reads.filter(reader=speaker))]):
            seen = seen.select(
                *KEY, "token_id", "max_logit", "logsumexp", "entropy", second=pl.col("top_logits").list.get(1)
            )
            part = fused.filter(method=name, writer=writer).join(seen, on=KEY, validate="1:1")
            part = part.join(ends[writer], on=["prompt_id", "turn"]).filter(pl.col("pos") < pl.col("written"))
            parts.append(part.with_columns(trunk=pl.lit(trunk), proven=pl.col("certificate") == "exact"))
        rows[name] = pl.concat(parts).sort("trunk", *KEY)
    return rows


def digest(rows: dict[str, pl.DataFrame]) -> str:
    """What of the trunks decides how policies ride on them."""
    columns = [
        "prompt_id",
        "token_id",
        "default_id",
        "small_id",
        "fused_id",
        "proven",
        "finish_reason",
        *SEEN,
    ]
    found = hashlib.sha256()
    for name in sorted(rows):
        found.update(name.encode())
        found.update(rows[name].select(columns).hash_rows(seed=0).to_numpy().tobytes())
    return found.hexdigest()


def ride(seed: int, rider: Rider, rows: pl.DataFrame) -> tuple[np.ndarray, list[Ride]]:
    """Whether the rider calls at each row of its method's trunks, and its rides by prompt."""
    seen = routers.Speaker(*(rows[column].to_numpy() for column in SEEN))
    fused_N, default_N = rows["fused_id"].to_numpy(), rows["default_id"].to_numpy()
    chance_N = routers.chance(seed, rows["prompt_id"].to_numpy(), rows["pos"].to_numpy())
    called_N = routers.calls(rider.gate, seen, chance_N, fused_N != default_N)
    token_N = np.where(called_N, fused_N, default_N)
    stays_N = rows["proven"].to_numpy() & (token_N == rows["token_id"].to_numpy())
    # from each row, the first at or after it where the rider leaves the trunk
    leaves_N = np.where(stays_N, len(stays_N), np.arange(len(stays_N)))
    leaves_N = np.minimum.accumulate(leaves_N[::-1])[::-1]
    proven_N = rows["proven"].to_numpy()
    return called_N, [_follow(name, trunks, leaves_N, proven_N, token_N) for name, trunks in _by_prompt(rows)]


def _by_prompt(rows: pl.DataFrame) -> list[tuple[str, list[Trunk]]]:
    grouped = rows.with_row_index("row").group_by("prompt_id", "trunk", maintain_order=True)
    found: dict[str, list[Trunk]] = {}
    for row in grouped.agg(pl.first("row", "finish_reason"), "token_id").iter_rows(named=True):
        trunk = Trunk(row["row"], row["token_id"], row["finish_reason"])
        found.setdefault(row["prompt_id"], []).append(trunk)
    return list(found.items())


def _follow(name: str, trunks: list[Trunk], leaves_N, proven_N, token_N) -> Ride:
    """Along a trunk to where it is left, on along the other if that goes on with the same token."""
    trunk, at, ids, pieces = trunks[0], 0, [], []
    while True:
        stop = min(int(leaves_N[trunk.first + at]) - trunk.first, len(trunk.ids))
        is_decided = stop < len(trunk.ids) and proven_N[trunk.first + stop]
        pieces.append(np.arange(trunk.first + at, trunk.first + stop + is_decided))
        ids += trunk.ids[at:stop]
        if is_decided:
            ids.append(int(token_N[trunk.first + stop]))
        at = len(ids)
        trunk = next((t for t in trunks if t.ids[:at] == ids), None) if is_decided else trunk
        if trunk is None or not is_decided or at == len(trunk.ids):
            reason = trunk.finish_reason if trunk and at == len(trunk.ids) else None
            return Ride(name, np.concatenate(pieces), ids, reason)
