"""Close-ups: what every model of a pair says along the texts that policies wrote, for the report's explorer.

Shape legend: L positions of one text, N rows, K = TOP ids of a list.
"""

from dataclasses import replace

import numpy as np
import polars as pl
import pyarrow as pa

from fsgen.config.schema import Settings
from fsgen.decoding import teacher_forcing
from fsgen.decoding.teacher_forcing import TeacherForced, TextToRead
from fsgen.execution import console
from fsgen.execution.executors import open_executor
from fsgen.execution.shards import Shard, ShardContext, run_shards
from fsgen.models import fingerprint
from fsgen.models.loading import load_checked
from fsgen.models.spec import ModelSpec, model_spec, prompt_ids
from fsgen.tables import files, parquet, paths
from fsgen.tables.schemas.dumps import ROLLOUT_LOGITS

TOP = 10
TEXT = ["turn", "pos", "token_id", "in_answer", "forced"]


def dump_rollouts(settings: Settings, pair: str) -> None:
    """Every model reads what policies wrote on the first test prompts; data/closeups/<pair>/<dataset>/.

    A text that several policies wrote is read once. Models are in memory one after the other, and
    only where their readings are not in scratch yet.
    """
    members = settings.pair(pair).roles()
    readers = {role: model_spec(settings, name) for role, name in members.items()}
    out, texts = paths.rollout_logits(pair), 0
    with files.atomic_folder(out) as folder, open_executor(settings, load_checked) as crew:
        for dataset in settings.datasets:
            prompts = first_prompts(settings, dataset)
            written = distinct_texts(pair, dataset, prompts["prompt_id"].to_list())
            label = f"{pair} looks closely at {dataset}"
            with console.progress(len(written) * len(members), "texts", label) as bar:
                shards = [_shard(settings, r, m, dataset, prompts, written) for r, m in readers.items()]
                run_shards(folder / dataset, shards, crew, bar)
            texts += len(written)
    console.done(f"{out}: {', '.join(members)} on {texts} texts of the report's prompts")


def first_prompts(settings: Settings, dataset: str) -> pl.DataFrame:
    """The prompts whose texts the report shows: the first `report.prompts` of the test split."""
    prompts = parquet.read(paths.prompts(dataset)).filter(split="test").sort("order")
    return prompts.head(settings.report.prompts)


def distinct_texts(pair: str, dataset: str, names: list[str]) -> pl.DataFrame:
    """Texts that policies wrote on these prompts, one row each: who wrote it, and TEXT as lists."""
    rolled = parquet.read(paths.rollouts(pair, dataset) / "tokens-*.parquet", ["policy", "prompt_id", *TEXT])
    texts = rolled.filter(pl.col("prompt_id").is_in(names)).group_by("policy", "prompt_id").agg(TEXT)
    alike = texts.group_by("prompt_id", *TEXT).agg(pl.col("policy").sort().alias("policies"))
    return alike.sort("prompt_id", "policies")


def _shard(
    settings: Settings,
    role: str,
    model: ModelSpec,
    dataset: str,
    prompts: pl.DataFrame,
    written: pl.DataFrame,
) -> Shard:
    facts = fingerprint.model_fingerprint(settings, __name__, model.name) | {
        "what": "closeups",
        "read_tokens": settings.compute.read_tokens,
        "prompts": prompts.select("prompt_id", "plain", "messages").to_dicts(),
        "texts": written.select("prompt_id", "policies", *TEXT).to_dicts(),
        "reader": role,
    }

    def make(hands: ShardContext) -> dict[str, pa.Table]:
        given = prompt_ids(model, prompts, settings.datasets[dataset].max_new_tokens)
        ids_of = dict(zip(prompts["prompt_id"], given, strict=True))
        texts = [
            TextToRead(ids_of[name], ids, np.full((len(ids), 1), -1, np.int32), (role,))
            for name, ids in written.select("prompt_id", "token_id").iter_rows()
        ]
        shallow = replace(settings, dump=replace(settings.dump, k_min=TOP, k_max=TOP))
        found = hands.budget.spend(
            lambda size: teacher_forcing.teacher_force(hands.loaded, texts, shallow, size)
        )
        hands.bar.advance(len(texts), tokens=sum(len(text.ids) for text in texts))
        parts = [_rows(row, role, own[role]) for row, own in zip(written.to_dicts(), found, strict=True)]
        return {"reads": pa.concat_tables(parts)}

    limit = (settings.compute.read_tokens, "tokens in a batch")
    return Shard(facts, {role: model}, limit, make, len(written))


def _rows(text: dict, role: str, reading: TeacherForced) -> pa.Table:
    """One reader's rows of CLOSEUPS for one text."""
    found, size = reading.records, len(text["token_id"])
    columns = {
        "reader": [role] * size,
        "prompt_id": [text["prompt_id"]] * size,
        "policies": [text["policies"]] * size,
        **{name: text[name] for name in TEXT},
        "top_ids": parquet.to_list_array(found.top_ids_NK, found.top_ids_NK >= 0),
        "top_logits": parquet.to_list_array(found.top_logits_NK, found.top_ids_NK >= 0),
        "logsumexp": found.logsumexp_N,
        "entropy": found.entropy_N,
    }
    return pa.table({name: columns[name] for name in ROLLOUT_LOGITS.names}).cast(ROLLOUT_LOGITS)
