"""The closed loop: policies write their own texts, on dumped text as far as it goes and then on models.

Shape legend: N rows (positions of texts).
"""

import json
from pathlib import Path
from typing import NamedTuple

import numpy as np
import polars as pl
import pyarrow as pa

from fsgen import console, fusion, models, rolled, routers, speakers, store, trunks
from fsgen.engines import open_crew
from fsgen.outlines import Outline, outline, prompt_ids
from fsgen.policies import Method
from fsgen.rolled import Share
from fsgen.settings import Settings
from fsgen.shards import Hands, Shard, blocks, find_kin, finish_shards
from fsgen.speakers import Speaker
from fsgen.texts import Ending, ending, prompt_digest
from fsgen.tree import End, Tree
from fsgen.trunks import Rider, Trunks
from fsgen.waiting import Start

ROOMS = ("fusion", "heads", "learned", "nodes", "rolled", "rollout", "routers", "speakers", "tree", "trunks")
ROOMS += ("waiting",)


def roll_out(settings: Settings, pair: str) -> None:
    """Write the texts of every policy of the pair on the test prompts; data/rollouts/<pair>/."""
    members = settings.named("pairs", pair).members()
    policies = [policy for policy in settings.policies_of(pair) if policy.draft is None]
    speaking = {fusion.speaker(settings.methods[policy.method]) for policy in policies}
    roles = [role for role in members if role in speaking | {"small", "large"}]
    outlines = {role: outline(settings, members[role]) for role in roles}
    routes = Path("data/routes") / pair
    calibrated = json.loads((routes / "thresholds.json").read_text())
    out = Path("data/rollouts") / pair
    with store.appear(out) as folder, open_crew(settings) as crew:
        for dataset, entry in settings.datasets.items():
            told = json.loads((routes / "learned" / f"{dataset}.json").read_text())
            weights = {name: entry["weights"] for name, entry in told.items()}
            riders = [
                Rider(p, settings.methods[p.method], routers.ready(settings, p, calibrated[dataset], weights))
                for p in policies
            ]
            prompts = store.read(f"data/prompts/{dataset}.parquet").filter(pl.col("split") == "test")
            known = trunks.open_trunks(settings, pair, dataset, prompts["prompt_id"].to_list())
            until = ending(outlines["large"], prompts, entry.max_new_tokens)
            cut = blocks(prompts, settings.dump.block)
            with console.progress(len(prompts) * len(riders), "texts", f"{pair} rolls out {dataset}") as bar:
                shards = [_shard(settings, outlines, riders, b, known, until) for b in cut]
                finish_shards(folder / dataset, shards, crew, bar)
    steps = pl.concat(store.read(out / dataset / "steps-*.parquet") for dataset in settings.datasets)
    console.wrote(
        f"{out}: {len(policies)} policies on the test prompts of {', '.join(settings.datasets)}; "
        f"their trees have {steps['taken'].sum()} model steps, one run per policy {steps['alone'].sum()}"
    )


class _Followed(NamedTuple):
    """Riders as far as the trunks carry them."""

    riders: list[Rider]
    told: dict[str, np.ndarray]
    """The columns of Tree's decisions, so far."""
    starts: list[Start]
    """Of those that go on."""
    ends: list[End]

    def left(self, names: list[str]) -> rolled.Left:
        """Where those that go on left the trunks; `names` are the prompts."""
        return {(self.riders[s.rider].policy.name, names[s.prompt]): len(s.text.ids) for s in self.starts}


def _shard(
    settings: Settings,
    outlines: dict[str, Outline],
    riders: list[Rider],
    block: pl.DataFrame,
    known: dict[str, Trunks],
    until: Ending,
) -> Shard:
    ids = prompt_ids(outlines["large"], block, until.max_new_tokens)
    prompts = dict(zip(block["prompt_id"], ids, strict=True))
    mine = pl.col("prompt_id").is_in(block["prompt_id"].to_list())
    known = {method: own._replace(rows=own.rows.filter(mine)) for method, own in known.items()}
    facts = {
        "what": "rollout",
        "compute": [settings.compute.rows, settings.compute.read_tokens],
        "seed": settings.seed,
        "prompts": [*zip(prompts, map(prompt_digest, ids), strict=True)],
        "until": [*until.facts(), [until.bridges.get(name) for name in prompts]],
        "k_min": settings.dump.k_min,
    }
    methods = {rider.policy.method: rider.method for rider in riders}
    told = {name: _method_facts(settings, outlines, method, known[name]) for name, method in methods.items()}
    parts = {r.policy.name: [told[r.policy.method], r.gate.facts()] for r in riders}

    def make(hands: Hands) -> dict[str, pa.Table]:
        kept = hands.kept.policies if hands.kept else []
        hands.bar.advance(len(prompts) * len(kept))
        old = [rider for rider in riders if rider.policy.name in kept]
        fresh = [rider for rider in riders if rider.policy.name not in kept]
        followed = [_follow_trunks(settings, own, known, [*prompts], until) for own in (fresh, old) if own]
        shares = [_roll(settings, hands, followed[0], prompts, until)] if fresh else []
        shares += [hands.kept] if hands.kept else []
        left = {where: pos for own in followed for where, pos in own.left([*prompts]).items()}
        return rolled.tables(riders, shares, left, prompts)

    limit = (settings.compute.rows, "branches side by side")
    return Shard(facts, outlines, limit, make, len(ids) * len(riders), parts, _bring_share)


def _bring_share(shard: Shard) -> Share | None:
    """What of the shard another run has rolled out before."""
    kin = find_kin(shard)
    return rolled.read_share(kin.home, kin.parts) if kin else None


def _method_facts(settings: Settings, outlines: dict[str, Outline], method: Method, known: Trunks) -> list:
    """What of a method decides the texts of its policies: rule, models that it asks, trunks."""
    rule = fusion.RULES[method.rule]
    names = [outlines[role].name for role in outlines if role in {rule.speaker, *rule.inputs}]
    return [method.rule, method.parameters, models.run_facts(settings, ROOMS, *names), trunks.digest(known)]


def _roll(
    settings: Settings,
    hands: Hands,
    followed: _Followed,
    prompts: dict[str, list[int]],
    until: Ending,
) -> Share:
    """Let these riders go on, on one tree."""
    riders, told, starts, ends = followed
    hands.bar.advance(len(ends))
    grown = hands.budget.spend(
        lambda rows: Tree(hands.loaded, prompts, riders, until, settings, rows).grow(starts, hands.bar)
    )
    if grown.decisions:
        told = {name: np.concatenate([told[name], grown.decisions[name]]) for name in told}
    ends = ends + grown.ends
    tokens = rolled.token_rows(told, ends, riders, [*prompts])
    mine = [rider.policy.name for rider in riders]
    return Share(mine, tokens, rolled.text_rows(ends, riders, prompts, until))


def _follow_trunks(
    settings: Settings, riders: list[Rider], known: dict[str, Trunks], names: list[str], until: Ending
) -> _Followed:
    """Decisions on dumped text by rider and position, and which riders go on or have ended."""
    parts, starts, ends = [], [], []
    methods = {rider.policy.method for rider in riders}
    seen = {method: speakers.seen(known[method].rows, settings.dump.k_min) for method in methods}
    for index, rider in enumerate(riders):
        method = rider.policy.method
        called_N, rides = trunks.ride(settings.seed, rider, known[method], seen[method])
        for ride in rides:
            prompt = names.index(ride.prompt_id)
            parts.append(_decisions(index, prompt, known[method].rows, seen[method], called_N, ride.rows))
            text = ride.text
            if text.own:  # what it wrote last, off the trunks, may have ended a turn
                (text,) = until.advance([ride.prompt_id], [text])
            is_done = until.is_finished(ride.prompt_id, text)
            (ends if is_done else starts).append((End if is_done else Start)(index, prompt, text))
    told = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    return _Followed(riders, told, starts, ends)


def _decisions(
    rider: int, prompt: int, rows: pl.DataFrame, seen: Speaker, called_N, picked: np.ndarray
) -> dict:
    """The columns of Tree's decisions, from rows of the trunks."""
    taken = rows[picked]
    tokens = {name: taken[name].to_numpy() for name in ("default_id", "small_id", "fused_id")}
    return {
        "rider": np.full(len(picked), rider),
        "prompt": np.full(len(picked), prompt),
        "pos": taken["pos"].to_numpy(),
        "called": called_N[picked],
        **tokens,
        **seen.take(picked)._asdict(),
    }
