"""The stage `dump_rollouts`: every model's top logits along policies' texts, for the report's explorer.

Shape legend: L tokens of one text.
"""

from dataclasses import replace
from typing import NamedTuple

import numpy as np
import polars as pl
import pyarrow as pa

from fsgen.config.schema import ComputeConfig, DumpConfig, Settings
from fsgen.decoding.engines import scorer_of
from fsgen.decoding.protocol import TextToRead
from fsgen.execution import console
from fsgen.execution.executors import open_executor
from fsgen.execution.shards import BatchLimit, Shard, ShardContext, Tables, run_shards
from fsgen.models.fingerprint import model_fingerprint
from fsgen.models.loading import load_checked
from fsgen.models.records import TokenRecords
from fsgen.models.spec import ModelSpec, model_spec, prompt_ids
from fsgen.tables import files, parquet, paths
from fsgen.tables.schemas.dumps import ROLLOUT_LOGITS

TOP = 10
TEXT_COLUMNS = ["turn", "pos", "token_id", "in_answer", "from_template"]


def dump_rollouts(settings: Settings, pair: str) -> None:
    """Every model reads what policies wrote on the first test prompts; writes data/rollout_logits/<pair>/.

    A text that several policies wrote is read once. One model is in memory at a time.
    """
    readers = {role: model_spec(settings, name) for role, name in settings.pair(pair).roles().items()}
    top_ids = replace(settings.dump, min_top_k=TOP, max_top_k=TOP)
    out, count = paths.rollout_logits(pair), 0
    with files.atomic_folder(out) as folder, open_executor(settings.compute, load_checked) as executor:
        for dataset, entry in settings.datasets.items():
            prompts = first_prompts(dataset, settings.report.explorer_prompts)
            texts = distinct_texts(pair, dataset, prompts["prompt_id"].to_list())
            work = _Texts(prompts, texts, entry.max_new_tokens)
            shards = [_shard(role, model, work, top_ids, settings.compute) for role, model in readers.items()]
            label = f"{pair} looks closely at {dataset}"
            with console.progress(len(texts) * len(readers), "texts", label) as bar:
                run_shards(folder / dataset, shards, executor, bar)
            count += len(texts)
    console.done(f"{out}: {', '.join(readers)} on {count} texts of the report's prompts")


def first_prompts(dataset: str, count: int) -> pl.DataFrame:
    """The prompts whose texts the report shows: the first `count` of the test split, in their order."""
    return parquet.read(paths.prompts(dataset)).filter(split="test").head(count)


def distinct_texts(pair: str, dataset: str, names: list[str]) -> pl.DataFrame:
    """Texts that policies wrote on these prompts, one row each: policies, and TEXT_COLUMNS as lists."""
    columns = ["policy", "prompt_id", *TEXT_COLUMNS]
    rows = parquet.read(paths.rollouts(pair, dataset) / "tokens-*.parquet", columns)
    rows = rows.filter(pl.col("prompt_id").is_in(names))
    texts = rows.group_by("policy", "prompt_id").agg(TEXT_COLUMNS)
    distinct = texts.group_by("prompt_id", *TEXT_COLUMNS).agg(pl.col("policy").sort().alias("policies"))
    return distinct.sort("prompt_id", "policies")


class _Texts(NamedTuple):
    """The texts to read, and their prompts."""

    prompts: pl.DataFrame
    texts: pl.DataFrame
    """As `distinct_texts` returns them."""
    max_new_tokens: int

    def to_read(self, role: str, model: ModelSpec) -> list[TextToRead]:
        """The texts as a reader reads them; no logits are gathered besides the records."""
        ids = prompt_ids(model, self.prompts, self.max_new_tokens)
        ids_of = dict(zip(self.prompts["prompt_id"], ids, strict=True))
        return [
            TextToRead(ids_of[prompt_id], token_ids, np.full((len(token_ids), 1), -1, np.int32), (role,))
            for prompt_id, token_ids in self.texts.select("prompt_id", "token_id").iter_rows()
        ]


def _shard(role: str, model: ModelSpec, work: _Texts, dump: DumpConfig, compute: ComputeConfig) -> Shard:
    """The reading of all texts by one model."""

    def make(context: ShardContext) -> Tables:
        score, texts = scorer_of(context.loaded, dump), work.to_read(role, model)
        scores = context.budget.run(lambda size: score(texts, size))
        context.bar.advance(len(texts), tokens=sum(len(text.ids) for text in texts))
        rows = zip(work.texts.iter_rows(named=True), scores, strict=True)
        return {
            "reads": pa.concat_tables([_table(row, role, by_role[role].records) for row, by_role in rows])
        }

    facts = model_fingerprint(compute, __name__, model) | {
        "what": "rollout logits",
        "max_batch_tokens": compute.max_batch_tokens,
        "prompts": work.prompts.select("prompt_id", "plain", "messages").to_dicts(),
        "texts": work.texts.select("prompt_id", "policies", *TEXT_COLUMNS).to_dicts(),
        "reader": role,
    }
    limit = BatchLimit(compute.max_batch_tokens, "tokens in a batch")
    return Shard(facts, {role: model}, limit, make, len(work.texts))


def _table(text: dict, role: str, records: TokenRecords) -> pa.Table:
    """One reader's rows of ROLLOUT_LOGITS for one text, which is a row of `distinct_texts`."""
    size, table = len(text["token_id"]), records.to_table()
    columns = {
        "reader": [role] * size,
        "prompt_id": [text["prompt_id"]] * size,
        "policies": [text["policies"]] * size,
        **{name: text[name] for name in TEXT_COLUMNS},
        **{name: table[name] for name in ("top_ids", "top_logits", "logsumexp", "entropy")},
    }
    return pa.table({name: columns[name] for name in ROLLOUT_LOGITS.names}).cast(ROLLOUT_LOGITS)
