"""The stage `rollout`: every policy writes its own texts, replayed as far as possible, then with models."""

from collections.abc import Mapping
from typing import NamedTuple

import polars as pl
import pyarrow as pa

from fsgen.collaboration.calibration import read_calibration
from fsgen.config import registry
from fsgen.config.policies import Method, Policy
from fsgen.config.schema import ComputeConfig, Settings
from fsgen.decoding.rollout.decisions import concatenate
from fsgen.decoding.rollout.dumped_texts import DumpedTexts, open_dumped_texts
from fsgen.decoding.rollout.model_steps import model_steps
from fsgen.decoding.rollout.prefix_tree import PrefixTree, TreeResult
from fsgen.decoding.rollout.replay import Replayed, replay
from fsgen.decoding.rollout.runs import PolicyRun
from fsgen.decoding.rollout.tables import (
    PolicyTables,
    join_policy_tables,
    policy_tables,
    read_policy_tables,
)
from fsgen.decoding.stored_texts import hash_prompt
from fsgen.decoding.texts import StopRule, stop_rule
from fsgen.execution import console
from fsgen.execution.code import definition_digest
from fsgen.execution.executors import open_executor
from fsgen.execution.shards import Shard, ShardContext, chunk_prompts, find_reusable, run_shards
from fsgen.models import fingerprint
from fsgen.models.loading import load_checked
from fsgen.models.spec import ModelSpec, model_spec, prompt_ids
from fsgen.tables import files, parquet, paths


def rollout(settings: Settings, pair: str) -> None:
    """Write the texts of every policy of the pair on the test prompts; data/rollouts/<pair>/."""
    policies = [policy for policy in settings.policies_of(pair) if policy.draft is None]
    models = _model_specs(settings, pair, policies)
    out = paths.rollouts(pair)
    with files.atomic_folder(out) as folder, open_executor(settings.compute, load_checked) as executor:
        for dataset in settings.datasets:
            shards = _shards(settings, pair, dataset, policies, models)
            texts = sum(shard.texts for shard in shards)
            with console.progress(texts, "texts", f"{pair} rolls out {dataset}") as bar:
                run_shards(folder / dataset, shards, executor, bar)
    steps = pl.concat(parquet.read(out / dataset / "steps-*.parquet") for dataset in settings.datasets)
    console.done(
        f"{out}: {len(policies)} policies on the test prompts of {', '.join(settings.datasets)}; "
        f"their trees have {steps['shared_steps'].sum()} model steps, "
        f"separate runs would have {steps['separate_steps'].sum()}"
    )


def _model_specs(settings: Settings, pair: str, policies: list[Policy]) -> dict[str, ModelSpec]:
    """Role to model: the small one, the large one and the policies' default models."""
    default_roles = {settings.methods[policy.method].definition.default_role for policy in policies}
    members = settings.pair(pair).roles()
    return {
        role: model_spec(settings, model)
        for role, model in members.items()
        if role in default_roles | {"small", "large"}
    }


def _shards(
    settings: Settings, pair: str, dataset: str, policies: list[Policy], models: dict[str, ModelSpec]
) -> list[Shard]:
    """The work on one dataset, a block of prompts a shard."""
    routers = read_calibration(pair, dataset).routers
    runs = [PolicyRun(policy, settings.methods[policy.method], routers[policy.name]) for policy in policies]
    prompts = parquet.read(paths.prompts(dataset)).filter(pl.col("split") == "test")
    dumped = open_dumped_texts(settings, pair, dataset, prompts["prompt_id"].to_list())
    rule = stop_rule(models["large"], prompts, settings.datasets[dataset].max_new_tokens)
    shards = []
    for block in chunk_prompts(prompts, settings.dump.prompts_per_shard):
        names = block["prompt_id"].to_list()
        ids = prompt_ids(models["large"], block, rule.max_new_tokens)
        dumped_here = {method: texts.of_prompts(names) for method, texts in dumped.items()}
        work = _Block(settings, runs, dict(zip(names, ids, strict=True)), dumped_here, rule)
        shards.append(work.shard(models))
    return shards


class _Block(NamedTuple):
    """The runs of all policies on a block of prompts."""

    settings: Settings
    runs: list[PolicyRun]
    prompts: dict[str, list[int]]
    """Prompt id to tokens."""
    dumped: dict[str, DumpedTexts]
    """By method."""
    stop_rule: StopRule

    def shard(self, models: dict[str, ModelSpec]) -> Shard:
        """The block as a shard, whose parts are policies."""
        limit = (self.settings.compute.batch_size, "branches side by side")
        texts = len(self.prompts) * len(self.runs)
        parts = self._parts(models)
        return Shard(self._facts(), models, limit, self.make, texts, parts, _find_policy_tables)

    def make(self, context: ShardContext) -> dict[str, pa.Table]:
        """The shard's tables: policies that another run has written before are taken from there."""
        kept: list[PolicyTables] = [context.prefetched] if context.prefetched else []
        kept_names = {name for part in kept for name in part.policies}
        context.bar.advance(len(self.prompts) * len(kept_names))
        fresh = [run for run in self.runs if run.name not in kept_names]
        old = [run for run in self.runs if run.name in kept_names]
        replayed = [(runs, self._replay(runs)) for runs in (fresh, old) if runs]
        departure_pos: dict[tuple[str, str], int] = {}
        for runs, result in replayed:
            departure_pos |= self._departure_pos(runs, result)
        written = [self._continue(context, *replayed[0])] if fresh else []
        joined = join_policy_tables(written + kept)
        steps = model_steps(joined.tokens, self.runs, departure_pos, self.prompts)
        return {"tokens": joined.tokens, "texts": joined.texts, "steps": steps}

    def _replay(self, runs: list[PolicyRun]) -> Replayed:
        width = self.settings.dump.min_top_k
        return replay(runs, self.dumped, list(self.prompts), self.stop_rule, self.settings.seed, width)

    def _departure_pos(self, runs: list[PolicyRun], replayed: Replayed) -> dict[tuple[str, str], int]:
        """Policy and prompt id to where the text left the dumped ones, for texts that did."""
        prompt_ids = list(self.prompts)
        return {(runs[p.run].name, prompt_ids[p.prompt]): len(p.text.ids) for p in replayed.pending}

    def _continue(self, context: ShardContext, runs: list[PolicyRun], replayed: Replayed) -> PolicyTables:
        """Let a tree continue the runs' pending texts; tables of all their texts."""
        context.bar.advance(len(replayed.finished))

        def write(rows: int) -> TreeResult:
            tree = PrefixTree(context.loaded, self.prompts, runs, self.stop_rule, self.settings, rows)
            return tree.run(replayed.pending, context.bar)

        written = context.budget.run(write)
        decisions = [part for part in (replayed.decisions, written.decisions) if part is not None]
        finished = replayed.finished + written.finished
        return policy_tables(concatenate(decisions), finished, runs, self.prompts, self.stop_rule)

    def _facts(self) -> dict:
        """What determines the shard's bytes, apart from its policies."""
        prompts = [(name, hash_prompt(ids)) for name, ids in self.prompts.items()]
        separators = [self.stop_rule.turn_separators.get(name) for name in self.prompts]
        return {
            "what": "rollout",
            "compute": [self.settings.compute.batch_size, self.settings.compute.max_batch_tokens],
            "seed": self.settings.seed,
            "prompts": prompts,
            "until": [*self.stop_rule.fingerprint_facts(), separators],
            "min_top_k": self.settings.dump.min_top_k,
        }

    def _parts(self, models: Mapping[str, ModelSpec]) -> dict[str, list]:
        """Policy to what determines its rows: its method and its router."""
        methods = {run.policy.method: run.method for run in self.runs}
        facts = {
            name: _method_facts(self.settings.compute, models, method, self.dumped[name])
            for name, method in methods.items()
        }
        return {run.name: [facts[run.policy.method], run.router.fingerprint()] for run in self.runs}


def _method_facts(
    compute: ComputeConfig, models: Mapping[str, ModelSpec], method: Method, dumped: DumpedTexts
) -> list:
    """What of a method determines its policies' texts: its rule, the models it runs, the dumped texts."""
    required = [models[role] for role in models if role in method.definition.requires]
    return [
        method.rule,
        definition_digest(registry.RULES, method.rule),
        method.parameters,
        fingerprint.model_fingerprint(compute, __name__, *required),
        dumped.digest(),
    ]


def _find_policy_tables(shard: Shard) -> PolicyTables | None:
    """Tables of the shard's policies that an earlier run has written, if any."""
    reusable = find_reusable(shard)
    return read_policy_tables(reusable.home, reusable.parts) if reusable else None
