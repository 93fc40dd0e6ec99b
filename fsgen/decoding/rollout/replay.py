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

from fsgen.collaboration import fusion, router_input, routers
from fsgen.config.policies import Method, Policy
from fsgen.config.schema import Settings
from fsgen.decoding.texts import TokenSequence, Turn, turns_of
from fsgen.tables import parquet, paths
from fsgen.tables.parquet import KEY


class PolicyRun(NamedTuple):
    """A policy ready to run."""

    policy: Policy
    method: Method
    gate: routers.CalibratedRouter


class ReplayedPrefix(NamedTuple):
    """A rider on one prompt, as far as the trunks carry it."""

    prompt_id: str
    rows: np.ndarray
    """Its decisions so far, rows of its method's trunks and of `called`, one a position that it chose."""
    text: TokenSequence
    """Its text so far, with the turns that ended on a trunk."""


class DumpedText(NamedTuple):
    """Where one dumped text stands among the rows of its method."""

    first: int
    ids: list[int]
    turns: tuple[Turn, ...]

    def upto(self, pos: int) -> TokenSequence:
        """Its first `pos` tokens."""
        ended = tuple(turn for turn in self.turns if turn.end <= pos)
        begun = self.turns[len(ended)] if len(ended) < len(self.turns) else None
        return TokenSequence(self.ids[:pos], ended, *((begun.start, begun.written) if begun else (pos, pos)))


class DumpedTexts(NamedTuple):
    """The trunks of one method: the default speaker's own texts (0) and the large model's (1)."""

    rows: pl.DataFrame
    """Sorted by trunk, prompt and position; tails are cut off."""
    turns: tuple[dict[str, tuple[Turn, ...]], dict[str, tuple[Turn, ...]]]
    """Of each trunk, prompt to its turns."""


def open_dumped_texts(
    settings: Settings, pair: str, dataset: str, names: list[str]
) -> dict[str, DumpedTexts]:
    """Method to its trunks on these prompts."""
    members = settings.pairs[pair].members()
    wanted = pl.col("prompt_id").is_in(names)
    fused = parquet.scan(paths.fused(pair, dataset) / "fused-*.parquet").filter(wanted).collect()
    texts = {
        role: parquet.scan(paths.dumps(model, dataset) / "texts-*.parquet").filter(wanted).collect()
        for role, model in members.items()
    }
    turns = {role: turns_of(own) for role, own in texts.items()}
    methods = settings.methods_of(pair)
    # policies that draft ride on none: they write the large model's text
    speaking = {name: fusion.default_role(m) for name, m in methods.items() if m.rule != "speculative"}
    seen = {role: _open_speaker(settings, pair, dataset, role, wanted) for role in set(speaking.values())}
    found = {}
    for name, speaker in speaking.items():
        parts = []
        for trunk, (writer, own) in enumerate(seen[speaker].items()):
            part = fused.filter(method=name, writer=writer).join(own, on=KEY, validate="1:1")
            ends = {prompt_id: told[-1].end for prompt_id, told in turns[writer].items()}
            part = part.filter(pl.col("pos") < pl.col("prompt_id").replace_strict(ends))
            parts.append(part.with_columns(trunk=pl.lit(trunk), proven=pl.col("certificate") == "exact"))
        found[name] = DumpedTexts(pl.concat(parts).sort("trunk", *KEY), (turns[speaker], turns["large"]))
    return found


def _open_speaker(
    settings: Settings, pair: str, dataset: str, role: str, wanted: pl.Expr
) -> dict[str, pl.DataFrame]:
    """KEY, token and what routers see of the speaker: by writer, on its own text and on the large model's."""
    model = settings.pairs[pair].members()[role]
    own = parquet.scan(paths.dumps(model, dataset) / "tokens-*.parquet")
    reads = parquet.scan(paths.read_by_small(pair, dataset) / "reads-*.parquet").filter(
        reader=role, writer="large"
    )
    asked = [*KEY, "token_id", *router_input.router_input_columns(settings.dump.k_min)]
    # before any row is in memory: a stored list is many times as wide as what routers see of it
    return {w: rows.filter(wanted).select(asked).collect() for w, rows in {role: own, "large": reads}.items()}


def dumped_texts_digest(known: DumpedTexts) -> str:
    """What of a method's trunks decides how policies ride on them."""
    columns = ["prompt_id", "token_id", "default_id", "small_id", "fused_id", "proven", "forced"]
    found = hashlib.sha256(
        known.rows.select(columns + router_input.COLUMNS).hash_rows(seed=0).to_numpy().tobytes()
    )
    prompts = sorted(set(known.rows["prompt_id"]))
    found.update(repr([[turns.get(name) for name in prompts] for turns in known.turns]).encode())
    return found.hexdigest()


def replay(
    seed: int, rider: PolicyRun, trunks: DumpedTexts, seen: router_input.RouterInput
) -> tuple[np.ndarray, list[ReplayedPrefix]]:
    """Whether the rider calls at each row of its method's trunks, `seen` there, and its rides by prompt."""
    rows = trunks.rows
    fused_N, default_N = rows["fused_id"].to_numpy(), rows["default_id"].to_numpy()
    chance_N = routers.position_uniforms(seed, rows["prompt_id"].to_numpy(), rows["pos"].to_numpy())
    called_N = routers.decide(rider.gate, seen, chance_N, fused_N != default_N)
    forced_N, proven_N = rows["forced"].to_numpy(), rows["proven"].to_numpy()
    token_N = np.where(called_N, fused_N, default_N)
    stays_N = forced_N | (proven_N & (token_N == rows["token_id"].to_numpy()))
    # from each row, the first at or after it where the rider leaves the trunk
    leaves_N = np.where(stays_N, len(stays_N), np.arange(len(stays_N)))
    leaves_N = np.minimum.accumulate(leaves_N[::-1])[::-1]
    followed = [_follow(name, own, leaves_N, proven_N, token_N) for name, own in _by_prompt(trunks)]
    chosen = [ride._replace(rows=ride.rows[~forced_N[ride.rows]]) for ride in followed]
    return called_N, chosen


def _by_prompt(trunks: DumpedTexts) -> list[tuple[str, list[DumpedText]]]:
    rows = trunks.rows
    grouped = rows.with_row_index("row").group_by("prompt_id", "trunk", maintain_order=True)
    found: dict[str, list[DumpedText]] = {}
    for row in grouped.agg(pl.first("row"), "token_id").iter_rows(named=True):
        name = row["prompt_id"]
        trunk = DumpedText(row["row"], row["token_id"], trunks.turns[row["trunk"]][name])
        found.setdefault(name, []).append(trunk)
    return list(found.items())


def _follow(name: str, trunks: list[DumpedText], leaves_N, proven_N, token_N) -> ReplayedPrefix:
    """Along a trunk to where it is left, on along the other if that goes on with the same token."""
    trunk, at, pieces = trunks[0], 0, []
    while True:
        stop = min(int(leaves_N[trunk.first + at]) - trunk.first, len(trunk.ids))
        is_decided = stop < len(trunk.ids) and proven_N[trunk.first + stop]
        pieces.append(np.arange(trunk.first + at, trunk.first + stop + is_decided))
        text = trunk.upto(stop)
        if not is_decided:
            return ReplayedPrefix(name, np.concatenate(pieces), text)
        text = text.followed_by(int(token_N[trunk.first + stop]))
        at = len(text.ids)
        trunk = next((t for t in trunks if t.ids[:at] == text.ids), None)
        if trunk is None:
            return ReplayedPrefix(name, np.concatenate(pieces), text)
        if at == len(trunk.ids):
            return ReplayedPrefix(name, np.concatenate(pieces), trunk.upto(at))
