"""The closed loop: policies write their own texts, on dumped text as far as it goes and then on models.

Shape legend: N rows (positions of texts).
"""

import json
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa

from fsgen import console, fusion, models, rolled, routers, speakers, store, trunks
from fsgen.engines import open_crew
from fsgen.outlines import Outline, outline, prompt_ids
from fsgen.policies import Method
from fsgen.rolled import Share
from fsgen.settings import Settings
from fsgen.shards import Hands, Shard, find_kin, finish_shards
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
    speakers = {fusion.speaker(settings.methods[policy.method]) for policy in policies}
    roles = [role for role in members if role in speakers | {"small", "large"}]
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
            step = settings.dump.block
            blocks = [prompts[start : start + step] for start in range(0, len(prompts), step)]
            with console.progress(len(prompts) * len(riders), "texts", f"{pair} rolls out {dataset}") as bar:
                shards = [_shard(settings, outlines, riders, b, known, until) for b in blocks]
                finish_shards(folder / dataset, shards, crew, bar)
    steps = pl.concat(store.read(out / dataset / "steps-*.parquet") for dataset in settings.datasets)
    console.wrote(
        f"{out}: {len(policies)} policies on the test prompts of {', '.join(settings.datasets)}; "
        f"{steps['taken'].sum()} model steps for {steps['alone'].sum()} that one run per policy takes"
    )


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
        fresh = [rider for rider in riders if rider.policy.name not in kept]
        shares = [_roll(settings, hands, fresh, known, prompts, until)] if fresh else []
        return rolled.tables(riders, shares + ([hands.kept] if hands.kept else []))

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
    riders: list[Rider],
    known: dict[str, Trunks],
    prompts: dict[str, list[int]],
    until: Ending,
) -> Share:
    """Let these riders write, on one tree."""
    told, starts, ends = _follow_trunks(settings, riders, known, [*prompts], until, hands.bar)
    grown = hands.budget.spend(
        lambda rows: Tree(hands.loaded, prompts, riders, until, settings, rows).grow(starts, hands.bar)
    )
    if grown.decisions:
        told = {name: np.concatenate([told[name], grown.decisions[name]]) for name in told}
    ends += grown.ends
    taken = {"taken": grown.positions, "taken_prompt": grown.prompt_positions}
    columns = {"role": [*grown.positions]} | {name: [*of.values()] for name, of in taken.items()}
    tokens = rolled.token_rows(told, ends, riders, [*prompts])
    mine = [rider.policy.name for rider in riders]
    return Share(mine, tokens, rolled.text_rows(ends, riders, prompts, until), pl.DataFrame(columns))


def _follow_trunks(
    settings: Settings, riders: list[Rider], known: dict[str, Trunks], names: list[str], until: Ending, bar
) -> tuple[dict[str, np.ndarray], list[Start], list[End]]:
    """Decisions on dumped text by rider and position, and which riders go on or have ended."""
    parts, starts, ends = [], [], []
    seen = {method: speakers.seen(own.rows, settings.dump.k_min) for method, own in known.items()}
    for index, rider in enumerate(riders):
        method, before = rider.policy.method, len(ends)
        called_N, rides = trunks.ride(settings.seed, rider, known[method], seen[method])
        for ride in rides:
            prompt = names.index(ride.prompt_id)
            parts.append(_decisions(index, prompt, known[method].rows, seen[method], called_N, ride.rows))
            text = ride.text
            if text.own:  # what it wrote last, off the trunks, may have ended a turn
                (text,) = until.advance([ride.prompt_id], [text])
            is_done = until.is_finished(ride.prompt_id, text)
            (ends if is_done else starts).append((End if is_done else Start)(index, prompt, text))
        bar.advance(len(ends) - before)
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}, starts, ends


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
