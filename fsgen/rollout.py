"""The closed loop: policies write their own texts, on dumped text as far as it goes and then on models.

Shape legend: N rows (positions of texts).
"""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa

from fsgen import console, cursor, fusion, models, routers, speakers, store, trunks
from fsgen.models import Budget, Loaded
from fsgen.policies import Method
from fsgen.settings import Settings
from fsgen.speakers import Speaker
from fsgen.texts import TEXTS, Ending, ending, marks, prompt_digest, text_rows
from fsgen.tree import End, Grown, Start, Tree
from fsgen.trunks import Rider, Trunks

POLICY = ("policy", pa.string(), "policy that wrote the text")
ROLLED = store.schema(
    [
        POLICY,
        ("prompt_id", pa.string(), "prompt that the text answers"),
        ("turn", pa.int32(), "turn of the conversation, from 1"),
        ("pos", pa.int32(), "place of the token in the text, from 0, through all turns"),
        ("token_id", pa.int32(), "the token written: fused_id if called, else default_id"),
        ("in_answer", pa.bool_(), "whether ratios count this row"),
        ("forced", pa.bool_(), "whether the token was given, not chosen; such a row has no decision"),
        ("default_id", pa.int32(), "argmax of the model that speaks when the large one is not called"),
        ("small_id", pa.int32(), "argmax of the small model, which FS-GEN compares proxy with"),
        ("fused_id", pa.int32(), "argmax of the fused score over the full vocabulary"),
        ("called", pa.bool_(), "whether the router called the large model"),
        ("mismatch", pa.bool_(), "whether fused_id differs from default_id"),
        ("max_probability", pa.float32(), "top probability of the model that would speak"),
        ("margin", pa.float32(), "its top probability less its second"),
        ("entropy", pa.float32(), "its entropy, nats"),
        ("score", pa.float32(), "what the policy's router compares with its threshold; null without one"),
    ]
)
ROLLED_TEXTS = store.schema([POLICY, *((f.name, f.type, f.metadata[b"about"].decode()) for f in TEXTS)])


STEPS = store.schema(
    [
        ("role", pa.string(), "small, tuned or large"),
        (
            "taken",
            pa.int64(),
            "generated positions that its model processed, unasked ones included",
        ),
        ("alone", pa.int64(), "those that its model would process if every policy wrote by itself"),
        ("taken_prompt", pa.int64(), "prompt positions that its model processed"),
    ]
)
ROOMS = ("fusion", "heads", "learned", "nodes", "rollout", "routers", "speakers", "tree", "trunks")
SCHEMAS = {"tokens": ROLLED, "texts": ROLLED_TEXTS, "steps": STEPS}
ORDER = [(name, "ascending") for name in ("policy", "prompt_id", "turn", "pos")]


def roll_out(settings: Settings, pair: str) -> None:
    """Write the texts of every policy of the pair on the test prompts; data/rollouts/<pair>/."""
    members = settings.named("pairs", pair).members()
    policies = [policy for policy in settings.policies_of(pair) if policy.draft is None]
    speakers = {fusion.speaker(settings.methods[policy.method]) for policy in policies}
    roles = [role for role in members if role in speakers | {"small", "large"}]
    loaded = {role: cursor.load(settings, members[role]) for role in roles}
    routes = Path("data/routes") / pair
    calibrated = json.loads((routes / "thresholds.json").read_text())
    budget = Budget(settings.compute.rows, "branches side by side")
    out = Path("data/rollouts") / pair
    with store.appear(out) as folder:
        for dataset, entry in settings.datasets.items():
            told = json.loads((routes / "learned" / f"{dataset}.json").read_text())
            weights = {name: entry["weights"] for name, entry in told.items()}
            riders = [
                Rider(p, settings.methods[p.method], routers.ready(settings, p, calibrated[dataset], weights))
                for p in policies
            ]
            prompts = store.read(f"data/prompts/{dataset}.parquet").filter(pl.col("split") == "test")
            known = trunks.open_trunks(settings, pair, dataset, prompts["prompt_id"].to_list())
            until = ending(loaded["large"], prompts, entry.max_new_tokens)
            step = settings.dump.block
            blocks = [prompts[start : start + step] for start in range(0, len(prompts), step)]
            with console.progress(len(prompts) * len(riders), "texts", f"{pair} rolls out {dataset}") as bar:
                shards = [_shard(settings, loaded, riders, b, known, until, budget, bar) for b in blocks]
                store.finish_shards(folder / dataset, shards, bar)
    steps = pl.concat(store.read(out / dataset / "steps-*.parquet") for dataset in settings.datasets)
    console.wrote(
        f"{out}: {len(policies)} policies on the test prompts of {', '.join(settings.datasets)}; "
        f"{steps['taken'].sum()} model steps for {steps['alone'].sum()} that one run per policy takes"
    )


def _shard(
    settings: Settings,
    loaded: dict[str, Loaded],
    riders: list[Rider],
    block: pl.DataFrame,
    known: dict[str, Trunks],
    until: Ending,
    budget: Budget,
    bar,
) -> store.Shard:
    ids = models.prompt_ids(loaded["large"], block, until.max_new_tokens)
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
    told = {name: _method_facts(settings, loaded, method, known[name]) for name, method in methods.items()}
    parts = {r.policy.name: [told[r.policy.method], r.gate.facts()] for r in riders}

    def make() -> dict[str, pa.Table]:
        kept = store.find_parts(facts, parts)
        bar.advance(len(prompts) * len(kept))
        fresh = [rider for rider in riders if rider.policy.name not in kept]
        grown = [_roll(settings, loaded, fresh, known, prompts, until, budget, bar)] if fresh else []
        return _joined([*grown, *_kept_tables(kept)])

    return store.Shard(facts, make, len(ids) * len(riders), parts)


def _method_facts(settings: Settings, loaded: dict[str, Loaded], method: Method, known: Trunks) -> list:
    """What of a method decides the texts of its policies: rule, models that it asks, trunks."""
    rule = fusion.RULES[method.rule]
    names = [loaded[role].name for role in loaded if role in {rule.speaker, *rule.inputs}]
    return [method.rule, method.parameters, models.run_facts(settings, ROOMS, *names), trunks.digest(known)]


def _roll(
    settings: Settings,
    loaded: dict[str, Loaded],
    riders: list[Rider],
    known: dict[str, Trunks],
    prompts: dict[str, list[int]],
    until: Ending,
    budget: Budget,
    bar,
) -> dict[str, pa.Table]:
    """The tables of these riders, which share one tree."""
    along, starts, ends = _follow_trunks(settings, riders, known, [*prompts], until)
    bar.advance(len(ends))
    grown = budget.spend(lambda rows: Tree(loaded, prompts, riders, until, settings, rows).grow(starts, bar))
    told = along
    if grown.decisions:
        told = {name: np.concatenate([along[name], grown.decisions[name]]) for name in along}
    return {
        "tokens": _tokens(told, ends + grown.ends, riders, [*prompts]),
        "texts": _texts(ends + grown.ends, riders, prompts, until),
        "steps": _steps(told, riders, grown),
    }


def _kept_tables(kept: dict[str, Path]) -> Iterator[dict[str, pa.Table]]:
    """The tables of policies that shards hold already, shard by shard; steps are those of its whole tree."""
    for home in sorted(set(kept.values())):
        mine = pl.col("policy").is_in([name for name, place in kept.items() if place == home])
        rows = {name: store.read(home / f"{name}.parquet") for name in SCHEMAS}
        rows = {name: frame.filter(mine) if name != "steps" else frame for name, frame in rows.items()}
        yield {name: frame.to_arrow().cast(SCHEMAS[name]) for name, frame in rows.items()}


def _joined(shares: list[dict[str, pa.Table]]) -> dict[str, pa.Table]:
    """Tables of several trees as those of one, in the order of one."""
    if len(shares) == 1:
        return shares[0]
    tables = {name: pa.concat_tables([share[name] for share in shares]) for name in SCHEMAS}
    summed = pl.from_arrow(tables["steps"]).group_by("role", maintain_order=True).sum()
    return {
        "tokens": tables["tokens"].sort_by(ORDER),
        "texts": tables["texts"].sort_by(ORDER[:3]),
        "steps": summed.to_arrow().cast(STEPS),
    }


def _follow_trunks(
    settings: Settings, riders: list[Rider], known: dict[str, Trunks], names: list[str], until: Ending
) -> tuple[dict[str, np.ndarray], list[Start], list[End]]:
    """Decisions on dumped text by rider and position, and which riders go on or have ended."""
    parts, starts, ends = [], [], []
    seen = {method: speakers.seen(own.rows, settings.dump.k_min) for method, own in known.items()}
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


def _tokens(told: dict, ends: list[End], riders: list[Rider], names: list[str]) -> pa.Table:
    """Every row of the finished texts, those that policies chose with what decided them."""
    lengths = np.array([len(end.text.ids) for end in ends])
    first = np.zeros((len(riders), len(names)), dtype=np.int64)  # of a text, among all rows
    first[[end.rider for end in ends], [end.prompt for end in ends]] = lengths.cumsum() - lengths
    row_N = first[told["rider"], told["prompt"]] + told["pos"]
    marked = marks([end.text for end in ends])
    own = Speaker(*(told[name] for name in Speaker._fields))
    decided = {name: told[name] for name in ("default_id", "small_id", "fused_id", "called")} | {
        "mismatch": told["fused_id"] != told["default_id"],
        "max_probability": routers.max_probability(own),
        "margin": routers.margin(own),
        "entropy": own.entropy_N,
        "score": _scores(told["rider"], own, riders),
    }
    columns = marked._asdict() | {name: _spread(row_N, x, marked.forced) for name, x in decided.items()}
    columns |= {
        "policy": np.repeat([riders[end.rider].policy.name for end in ends], lengths),
        "prompt_id": np.repeat([names[end.prompt] for end in ends], lengths),
        "pos": np.concatenate([np.arange(n) for n in lengths]),
        "token_id": np.concatenate([end.text.ids for end in ends]),
    }
    return pa.table({name: columns[name] for name in ROLLED.names}).cast(ROLLED).sort_by(ORDER)


def _scores(rider_N: np.ndarray, own: Speaker, riders: list[Rider]) -> np.ndarray:
    """What each decision's router made of it, nan of a router that scores nothing, [N]."""
    score_N = np.full(len(rider_N), np.nan, dtype=np.float32)
    for index in np.unique(rider_N):
        mine = np.flatnonzero(rider_N == index)
        found = riders[index].gate.score(own.take(mine))
        if found is not None:
            score_N[mine] = found
    return score_N


def _spread(row_N: np.ndarray, values_N: np.ndarray, forced: np.ndarray) -> pa.Array:
    """The values at their rows, null at forced ones and where there is none (nan)."""
    spread = np.zeros(len(forced), dtype=values_N.dtype)
    spread[row_N] = values_N
    return pa.array(spread, mask=forced | (spread != spread))


def _texts(ends: list[End], riders: list[Rider], prompts: dict[str, list[int]], until: Ending) -> pa.Table:
    names, rows = [*prompts], []
    for end in ends:
        name, policy = names[end.prompt], riders[end.rider].policy.name
        rows += [{"policy": policy, **row} for row in text_rows(until, name, prompts[name], end.text)]
    return pa.Table.from_pylist(rows, schema=ROLLED_TEXTS).sort_by(ORDER[:3])


def _steps(told: dict, riders: list[Rider], grown: Grown) -> pa.Table:
    """Model steps taken beside those of one run per policy, in which helpers go as far as the last call."""
    texts = pl.DataFrame({name: told[name] for name in ("rider", "prompt", "pos", "called")})
    reached = (pl.col("pos") <= pl.col("pos").filter("called").max()).sum()  # 0 where none is called
    texts = texts.group_by("rider", "prompt").agg(tokens=pl.len(), reached=reached)
    alone = dict.fromkeys(grown.positions, 0)
    for rider, tokens, reached in texts.group_by("rider").agg(pl.sum("tokens", "reached")).iter_rows():
        method = riders[rider].method
        speaker = fusion.speaker(method)
        for role in {speaker, *fusion.RULES[method.rule].inputs}:
            alone[role] += tokens if role == speaker else reached
    columns = {
        "role": [*alone],
        "taken": [grown.positions[role] for role in alone],
        "alone": [*alone.values()],
        "taken_prompt": [grown.prompt_positions[role] for role in alone],
    }
    return pa.table(columns, schema=STEPS)
