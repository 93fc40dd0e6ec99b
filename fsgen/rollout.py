"""The closed loop: policies write their own texts, sharing every prefix that they have in common.

Shape legend: B branches (distinct prefixes), R riders (a policy on a prompt), P prompts, V usable vocabulary.
A rider sits on a branch; riders of one branch that choose different tokens split it, and the cache
rows are copied, not recomputed. All branches grow in step, so a split is a selection of cache rows.
"""

import json
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import polars as pl
import pyarrow as pa
import torch

from fsgen import console, fusion, models, records, routers, store
from fsgen.cursor import Cursor
from fsgen.policies import Method, Policy
from fsgen.settings import Settings
from fsgen.texts import TEXTS, Ending, Text, ending, prompt_digest, text_row

POLICY = ("policy", pa.string(), "policy that wrote the text")
ROLLED = store.schema(
    [
        POLICY,
        ("prompt_id", pa.string(), "prompt that the text answers"),
        ("turn", pa.int32(), "turn of the conversation, from 1"),
        ("pos", pa.int32(), "place of the token in the text, from 0"),
        ("token_id", pa.int32(), "the token written: fused_id if called, else default_id"),
        ("in_answer", pa.bool_(), "whether ratios count this row"),
        ("default_id", pa.int32(), "argmax of the model that speaks when the large one is not called"),
        ("small_id", pa.int32(), "argmax of the small model, which FS-GEN compares proxy with"),
        ("fused_id", pa.int32(), "argmax of the fused score over the full vocabulary"),
        ("called", pa.bool_(), "whether the router called the large model"),
        ("mismatch", pa.bool_(), "whether fused_id differs from default_id"),
        ("max_probability", pa.float32(), "top probability of the model that would speak"),
        ("margin", pa.float32(), "its top probability less its second"),
        ("entropy", pa.float32(), "its entropy, nats"),
    ]
)
ROLLED_TEXTS = store.schema([POLICY, *((f.name, f.type, f.metadata[b"about"].decode()) for f in TEXTS)])


class Rider(NamedTuple):
    """A policy ready to run."""

    policy: Policy
    method: Method
    gate: routers.Gate


def roll_out(settings: Settings, pair: str) -> None:
    """Write the texts of every policy of the pair on the test prompts; data/rollouts/<pair>/."""
    members = settings.named("pairs", pair).members()
    policies = [policy for policy in settings.policies_of(pair) if policy.draft is None]
    speakers = {fusion.speaker(settings.methods[policy.method]) for policy in policies}
    roles = [role for role in members if role in speakers | {"small", "large"}]
    loaded = {role: models.load(settings, members[role]) for role in roles}
    calibrated = json.loads((Path("data/routes") / pair / "thresholds.json").read_text())
    out = Path("data/rollouts") / pair
    with store.appear(out) as folder:
        for dataset, entry in settings.datasets.items():
            riders = [
                Rider(p, settings.methods[p.method], routers.ready(settings, p, calibrated[dataset]))
                for p in policies
            ]
            prompts = store.read(f"data/prompts/{dataset}.parquet").filter(pl.col("split") == "test")
            step = settings.dump.block
            blocks = [prompts[start : start + step] for start in range(0, len(prompts), step)]
            with console.progress(len(prompts) * len(riders), "texts", f"{pair} rolls out {dataset}") as bar:
                shards = [_shard(settings, loaded, riders, b, entry.max_new_tokens, bar) for b in blocks]
                store.finish_shards(folder / dataset, shards, bar)
    console.wrote(f"{out}: {len(policies)} policies on the test prompts of {', '.join(settings.datasets)}")


def _shard(
    settings: Settings, loaded: dict, riders: list[Rider], block: pl.DataFrame, max_new: int, bar
) -> store.Shard:
    ids = models.prompt_ids(loaded["large"], block, max_new)
    until = ending(loaded["large"], block, max_new)
    names = block["prompt_id"].to_list()
    facts = models.run_facts(settings, *(model.name for model in loaded.values())) | {
        "what": "rollout",
        "rows": settings.compute.rows,
        "seed": settings.seed,
        "prompts": [*zip(names, map(prompt_digest, ids), strict=True)],
        "until": [until.stops, until.max_new_tokens],
        "riders": [[r.policy.name, r.method.rule, r.method.parameters, r.gate] for r in riders],
    }

    def make() -> dict[str, pa.Table]:
        step = settings.compute.rows
        parts = []
        for start in range(0, len(ids), step):
            tree = Tree(
                loaded, ids[start : start + step], names[start : start + step], riders, until, settings
            )
            parts.append(tree.grow(bar))
        return {
            "tokens": pa.concat_tables([tokens for tokens, _ in parts]).sort_by(_ORDER),
            "texts": pa.concat_tables([texts for _, texts in parts]).sort_by(_ORDER[:3]),
        }

    return store.Shard(facts, make, len(ids) * len(riders))


_ORDER = [(name, "ascending") for name in ("policy", "prompt_id", "turn", "pos")]


class Tree:
    """Prefixes of many policies' texts; `grow` runs it to its last leaf."""

    def __init__(
        self, loaded, prompts: list[list[int]], names: list[str], riders: list[Rider], until: Ending, settings
    ):
        self.prompts, self.names_P, self.riders = prompts, np.array(names), riders
        self.until, self.settings = until, settings
        self.vocabulary = loaded["large"].vocabulary
        with torch.inference_mode():
            self.cursors = {role: Cursor(model, prompts) for role, model in loaded.items()}
        self.prefixes: list[list[int]] = [[] for _ in prompts]
        # rider r is policy r // prompts on prompt r % prompts
        self.policy_R = np.repeat(np.arange(len(riders)), len(prompts))
        self.prompt_R = np.tile(np.arange(len(prompts)), len(riders))
        self.branch_R = self.prompt_R.copy()
        self.steps: list[dict[str, np.ndarray]] = []
        self.texts: list[dict] = []

    @torch.inference_mode()
    def grow(self, bar: console.Bar) -> tuple[pa.Table, pa.Table]:
        """Run every rider to its end; returns its rows (ROLLED) and texts (ROLLED_TEXTS)."""
        while len(self.branch_R):
            bar.advance(tokens=len(self.prefixes))
            step = self._decide()
            self.steps.append(step)
            bar.advance(self._move(step["token_id"]))
        return self._tables()

    def _decide(self) -> dict[str, np.ndarray]:
        """What every rider says at this position, from the logits of its branch."""
        logits = {role: cursor.logits_BV for role, cursor in self.cursors.items()}
        seen = {role: _look(logits[role], self.settings) for role in logits if role != "large"}
        riding = np.unique(self.policy_R)  # sorted, as the riders are
        methods = {self.riders[i].policy.method: self.riders[i].method for i in riding}
        fused = {name: _fuse(method, logits) for name, method in methods.items()}
        parts = [self._ask(i, seen, fused) for i in riding]
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    def _ask(self, index: int, seen: dict, fused: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """The columns of one policy's riders; `seen` and `fused` are by branch."""
        rider, rows = self.riders[index], np.flatnonzero(self.policy_R == index)
        branch_R, prompt_R = self.branch_R[rows], self.prompt_R[rows]
        top_B, speaker = seen[fusion.speaker(rider.method)]
        default_R, fused_R = top_B[branch_R], fused[rider.policy.method][branch_R]
        own = routers.Speaker(*(array_B[branch_R] for array_B in speaker))
        pos_R = np.full(len(rows), len(self.prefixes[0]), np.int32)
        chance_R = routers.chance(self.settings.seed, self.names_P[prompt_R], pos_R)
        called_R = routers.calls(rider.gate, own, chance_R, fused_R != default_R)
        return {
            "rider": self._rider_R()[rows],
            "pos": pos_R,
            "token_id": np.where(called_R, fused_R, default_R),
            "default_id": default_R,
            "small_id": seen["small"][0][branch_R],
            "fused_id": fused_R,
            "called": called_R,
            "mismatch": fused_R != default_R,
            "max_probability": routers.max_probability(own),
            "margin": routers.margin(own),
            "entropy": own.entropy_N,
        }

    def _rider_R(self) -> np.ndarray:
        return self.policy_R * len(self.prompts) + self.prompt_R

    def _move(self, token_R: np.ndarray) -> int:
        """Append the riders' tokens: split branches, end texts, step the rest; returns ended riders."""
        key_C, child_R = np.unique(self.branch_R * self.vocabulary + token_R, return_inverse=True)
        parent_C, token_C = np.divmod(key_C, self.vocabulary)
        grown = [[*self.prefixes[p], t] for p, t in zip(parent_C.tolist(), token_C.tolist(), strict=True)]
        reasons = self.until.reasons(grown)
        ended_R = np.array([reasons[child] is not None for child in child_R])
        for rider, child in zip(self._rider_R()[ended_R], child_R[ended_R], strict=True):
            self._finish(int(rider), grown[child], reasons[child])
        alive_C = np.array([reason is None for reason in reasons])
        self.prefixes = [ids for ids, reason in zip(grown, reasons, strict=True) if reason is None]
        if alive_C.any():
            for cursor in self.cursors.values():
                cursor.select(torch.from_numpy(parent_C[alive_C]).to(cursor.logits_BV.device))
                cursor.step(torch.from_numpy(token_C[alive_C]).to(cursor.logits_BV.device))
        renumbered_C = np.cumsum(alive_C) - 1
        self.policy_R, self.prompt_R = self.policy_R[~ended_R], self.prompt_R[~ended_R]
        self.branch_R = renumbered_C[child_R[~ended_R]]
        return int(ended_R.sum())

    def _finish(self, rider: int, ids: list[int], reason: str) -> None:
        policy, prompt = divmod(rider, len(self.prompts))
        text = Text(ids, reason, self.until.answer_tokens(ids, reason))
        row = text_row(self.until, str(self.names_P[prompt]), self.prompts[prompt], text)
        self.texts.append({"rider": rider, "policy": self.riders[policy].policy.name, **row})

    def _tables(self) -> tuple[pa.Table, pa.Table]:
        columns = {name: np.concatenate([step[name] for step in self.steps]) for name in self.steps[0]}
        counted = np.zeros(len(self.riders) * len(self.prompts), dtype=np.int64)
        for row in self.texts:
            counted[row.pop("rider")] = row["answer_tokens"]
        policy_N, prompt_N = np.divmod(columns["rider"], len(self.prompts))
        columns["policy"] = np.array([rider.policy.name for rider in self.riders])[policy_N]
        columns["prompt_id"] = self.names_P[prompt_N]
        columns["turn"] = np.ones(len(prompt_N), dtype=np.int32)
        columns["in_answer"] = columns["pos"] < counted[columns["rider"]]
        rows = pa.table({name: columns[name] for name in ROLLED.names}).cast(ROLLED)
        return rows, pa.Table.from_pylist(self.texts, schema=ROLLED_TEXTS)


def _look(logits_BV: torch.Tensor, settings: Settings) -> tuple[np.ndarray, routers.Speaker]:
    """Top token of every branch and what routers see of it."""
    seen = records.record(logits_BV, replace(settings.dump, k_min=2, k_max=2))
    speaker = routers.Speaker(seen.max_logit_N, seen.top_logits_NK[:, 1], seen.logsumexp_N, seen.entropy_N)
    return seen.top_ids_NK[:, 0], speaker


def _fuse(method: Method, logits: dict[str, torch.Tensor]) -> np.ndarray:
    """Fused tokens over the full vocabulary; torch's argmax takes the lowest id of a tie."""
    large, small, tuned = (
        x if x is None else x.double() for x in map(logits.get, ("large", "small", "tuned"))
    )
    may_win_BV = fusion.allowed(method, large, large.amax(-1, keepdim=True))
    scores_BV = fusion.score(method, large, small, tuned).masked_fill(~may_win_BV, -torch.inf)
    return scores_BV.argmax(-1).cpu().numpy().astype(np.int32)
