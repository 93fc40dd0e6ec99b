"""The closed loop: policies write their own texts, on dumped text as far as it goes and then on models.

Shape legend: N rows (positions of texts).
"""

import json
from typing import NamedTuple

import numpy as np
import polars as pl
import pyarrow as pa

from fsgen.collaboration import fusion, router_input, routers
from fsgen.collaboration.router_input import RouterInput
from fsgen.config.policies import Method
from fsgen.config.schema import Settings
from fsgen.decoding.rollout import replay, tables
from fsgen.decoding.rollout.admission import PendingText
from fsgen.decoding.rollout.prefix_tree import FinishedText, PrefixTree
from fsgen.decoding.rollout.replay import DumpedTexts, PolicyRun
from fsgen.decoding.rollout.tables import PolicyTables
from fsgen.decoding.texts import StopRule, hash_prompt, stop_rule
from fsgen.execution import console
from fsgen.execution.executors import open_executor
from fsgen.execution.shards import Shard, ShardContext, chunk_prompts, find_reusable, run_shards
from fsgen.models import fingerprint
from fsgen.models.loading import load_checked
from fsgen.models.spec import ModelSpec, model_spec, prompt_ids
from fsgen.tables import files, parquet, paths


def rollout(settings: Settings, pair: str) -> None:
    """Write the texts of every policy of the pair on the test prompts; data/rollouts/<pair>/."""
    members = settings.named("pairs", pair).members()
    policies = [policy for policy in settings.policies_of(pair) if policy.draft is None]
    speaking = {fusion.default_role(settings.methods[policy.method]) for policy in policies}
    roles = [role for role in members if role in speaking | {"small", "large"}]
    outlines = {role: model_spec(settings, members[role]) for role in roles}
    routes = paths.routes(pair)
    calibrated = json.loads((routes / "thresholds.json").read_text())
    out = paths.rollouts(pair)
    with files.atomic_folder(out) as folder, open_executor(settings, load_checked) as crew:
        for dataset, entry in settings.datasets.items():
            told = json.loads((routes / "learned" / f"{dataset}.json").read_text())
            weights = {name: entry["weights"] for name, entry in told.items()}
            riders = [
                PolicyRun(
                    p,
                    settings.methods[p.method],
                    routers.calibrated_router(settings, p, calibrated[dataset], weights),
                )
                for p in policies
            ]
            prompts = parquet.read(paths.prompts(dataset)).filter(pl.col("split") == "test")
            known = replay.open_dumped_texts(settings, pair, dataset, prompts["prompt_id"].to_list())
            until = stop_rule(outlines["large"], prompts, entry.max_new_tokens)
            cut = chunk_prompts(prompts, settings.dump.block)
            with console.progress(len(prompts) * len(riders), "texts", f"{pair} rolls out {dataset}") as bar:
                shards = [_shard(settings, outlines, riders, b, known, until) for b in cut]
                run_shards(folder / dataset, shards, crew, bar)
    steps = pl.concat(parquet.read(out / dataset / "steps-*.parquet") for dataset in settings.datasets)
    console.done(
        f"{out}: {len(policies)} policies on the test prompts of {', '.join(settings.datasets)}; "
        f"their trees have {steps['taken'].sum()} model steps, one run per policy {steps['alone'].sum()}"
    )


class _Followed(NamedTuple):
    """Riders as far as the trunks carry them."""

    riders: list[PolicyRun]
    told: dict[str, np.ndarray]
    """The columns of Tree's decisions, so far."""
    starts: list[PendingText]
    """Of those that go on."""
    ends: list[FinishedText]

    def left(self, names: list[str]) -> tables.departure_pos:
        """Where those that go on left the trunks; `names` are the prompts."""
        return {(self.riders[s.rider].policy.name, names[s.prompt]): len(s.text.ids) for s in self.starts}


def _shard(
    settings: Settings,
    outlines: dict[str, ModelSpec],
    riders: list[PolicyRun],
    block: pl.DataFrame,
    known: dict[str, DumpedTexts],
    until: StopRule,
) -> Shard:
    ids = prompt_ids(outlines["large"], block, until.max_new_tokens)
    prompts = dict(zip(block["prompt_id"], ids, strict=True))
    mine = pl.col("prompt_id").is_in(block["prompt_id"].to_list())
    known = {method: own._replace(rows=own.rows.filter(mine)) for method, own in known.items()}
    facts = {
        "what": "rollout",
        "compute": [settings.compute.rows, settings.compute.read_tokens],
        "seed": settings.seed,
        "prompts": [*zip(prompts, map(hash_prompt, ids), strict=True)],
        "until": [*until.facts(), [until.bridges.get(name) for name in prompts]],
        "k_min": settings.dump.k_min,
    }
    methods = {rider.policy.method: rider.method for rider in riders}
    told = {name: _method_facts(settings, outlines, method, known[name]) for name, method in methods.items()}
    parts = {r.policy.name: [told[r.policy.method], r.gate.facts()] for r in riders}

    def make(hands: ShardContext) -> dict[str, pa.Table]:
        kept = hands.kept.policies if hands.kept else []
        hands.bar.advance(len(prompts) * len(kept))
        old = [rider for rider in riders if rider.policy.name in kept]
        fresh = [rider for rider in riders if rider.policy.name not in kept]
        followed = [_follow_trunks(settings, own, known, [*prompts], until) for own in (fresh, old) if own]
        shares = [_roll(settings, hands, followed[0], prompts, until)] if fresh else []
        shares += [hands.kept] if hands.kept else []
        left = {where: pos for own in followed for where, pos in own.left([*prompts]).items()}
        return tables.tables(riders, shares, left, prompts)

    limit = (settings.compute.rows, "branches side by side")
    return Shard(facts, outlines, limit, make, len(ids) * len(riders), parts, _bring_share)


def _bring_share(shard: Shard) -> PolicyTables | None:
    """What of the shard another run has rolled out before."""
    kin = find_reusable(shard)
    return tables.read_policy_tables(kin.home, kin.parts) if kin else None


def _method_facts(
    settings: Settings, outlines: dict[str, ModelSpec], method: Method, known: DumpedTexts
) -> list:
    """What of a method decides the texts of its policies: rule, models that it asks, trunks."""
    rule = fusion.RULES[method.rule]
    names = [outlines[role].name for role in outlines if role in {rule.speaker, *rule.inputs}]
    return [
        method.rule,
        method.parameters,
        fingerprint.model_fingerprint(settings, __name__, *names),
        replay.dumped_texts_digest(known),
    ]


def _roll(
    settings: Settings,
    hands: ShardContext,
    followed: _Followed,
    prompts: dict[str, list[int]],
    until: StopRule,
) -> PolicyTables:
    """Let these riders go on, on one tree."""
    riders, told, starts, ends = followed
    hands.bar.advance(len(ends))
    grown = hands.budget.spend(
        lambda rows: PrefixTree(hands.loaded, prompts, riders, until, settings, rows).grow(starts, hands.bar)
    )
    if grown.decisions:
        told = {name: np.concatenate([told[name], grown.decisions[name]]) for name in told}
    ends = ends + grown.ends
    tokens = tables.token_rows(told, ends, riders, [*prompts])
    mine = [rider.policy.name for rider in riders]
    return PolicyTables(mine, tokens, tables.text_rows(ends, riders, prompts, until))


def _follow_trunks(
    settings: Settings,
    riders: list[PolicyRun],
    known: dict[str, DumpedTexts],
    names: list[str],
    until: StopRule,
) -> _Followed:
    """Decisions on dumped text by rider and position, and which riders go on or have ended."""
    parts, starts, ends = [], [], []
    methods = {rider.policy.method for rider in riders}
    seen = {method: router_input.router_input(known[method].rows, settings.dump.k_min) for method in methods}
    for index, rider in enumerate(riders):
        method = rider.policy.method
        called_N, rides = replay.replay(settings.seed, rider, known[method], seen[method])
        for ride in rides:
            prompt = names.index(ride.prompt_id)
            parts.append(_decisions(index, prompt, known[method].rows, seen[method], called_N, ride.rows))
            text = ride.text
            if text.own:  # what it wrote last, off the trunks, may have ended a turn
                (text,) = until.advance([ride.prompt_id], [text])
            is_done = until.is_finished(ride.prompt_id, text)
            (ends if is_done else starts).append(
                (FinishedText if is_done else PendingText)(index, prompt, text)
            )
    told = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    return _Followed(riders, told, starts, ends)


def _decisions(
    rider: int, prompt: int, rows: pl.DataFrame, seen: RouterInput, called_N, picked: np.ndarray
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
