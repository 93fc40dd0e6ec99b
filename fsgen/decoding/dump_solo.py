"""Writing alone: a model answers every prompt greedily and leaves a record of each position.

Shape legend: B texts in the batch, N rows (positions of texts), V usable vocabulary.
"""

import numpy as np
import polars as pl
import pyarrow as pa

from fsgen.config.schema import Settings
from fsgen.decoding.greedy import generate_greedy
from fsgen.decoding.texts import (
    StopRule,
    TokenSequence,
    hash_prompt,
    stop_rule,
    text_rows,
    token_flags,
)
from fsgen.execution import console
from fsgen.execution.executors import open_executor
from fsgen.execution.shards import Shard, ShardContext, chunk_prompts, run_shards
from fsgen.models import fingerprint, records
from fsgen.models.loading import load_checked
from fsgen.models.spec import ModelSpec, model_spec, prompt_ids
from fsgen.tables import files, parquet, paths
from fsgen.tables.schemas.dumps import TEXTS, TOKENS


def dump_solo(settings: Settings, name: str) -> None:
    """Let the model `name` answer every prompt of every dataset; writes data/dumps/<name>/."""
    model = model_spec(settings, name)
    out = paths.dumps(name)
    with files.atomic_folder(out) as folder, open_executor(settings, load_checked) as crew:
        for dataset, entry in settings.datasets.items():
            prompts = parquet.read(paths.prompts(dataset))
            with console.progress(len(prompts), "texts", f"{name} writes {dataset}") as bar:
                until = stop_rule(model, prompts, entry.max_new_tokens, settings.dump.tail)
                cut = chunk_prompts(prompts, settings.dump.block)
                shards = [_solo_shard(settings, model, block, until) for block in cut]
                run_shards(folder / dataset, shards, crew, bar)
    console.done(f"{out}: the texts of {name} on {', '.join(settings.datasets)} with a record of every token")


def _solo_shard(settings: Settings, model: ModelSpec, block: pl.DataFrame, until: StopRule) -> Shard:
    ids = prompt_ids(model, block, until.max_new_tokens)
    facts = fingerprint.model_fingerprint(settings, __name__, model.name) | {
        "what": "solo",
        "dump": vars(settings.dump),
        "compute": [settings.compute.rows, settings.compute.read_tokens],
        "prompts": [*zip(block["prompt_id"], map(hash_prompt, ids), strict=True)],
        "until": [*until.facts(), [until.bridges.get(name) for name in block["prompt_id"]]],
    }

    def make(hands: ShardContext) -> dict[str, pa.Table]:
        (loaded,) = hands.loaded.values()
        prompts = dict(zip(block["prompt_id"], ids, strict=True))
        texts, rows = hands.budget.spend(
            lambda size: generate_greedy(loaded, prompts, until, settings, size, hands.bar)
        )
        return tables(until, prompts, texts, rows)

    limit = (settings.compute.rows, "texts side by side")
    return Shard(facts, {"writer": model}, limit, make, len(block))


def tables(
    until: StopRule, prompts: dict[str, list[int]], texts: list[TokenSequence], rows: records.TokenRecords
) -> dict[str, pa.Table]:
    """The shard's two tables, `tokens` (TOKENS) and `texts` (TEXTS), sorted by prompt and position."""
    names = [*prompts]
    order = sorted(range(len(texts)), key=names.__getitem__)
    lengths = np.array([len(text.ids) for text in texts])
    starts = np.concatenate([[0], lengths.cumsum()[:-1]])
    picked = np.concatenate([np.arange(starts[i], starts[i] + lengths[i]) for i in order])
    tokens = {
        "prompt_id": np.repeat([names[i] for i in order], lengths[order]),
        "pos": np.concatenate([np.arange(lengths[i]) for i in order]).astype(np.int32),
        "token_id": np.concatenate([texts[i].ids for i in order]).astype(np.int32),
        **token_flags([texts[i] for i in order])._asdict(),
        **_columns(rows.take(picked).to_table()),
    }
    whole = [row for i in order for row in text_rows(until, names[i], prompts[names[i]], texts[i])]
    return {
        "tokens": pa.table({name: tokens[name] for name in TOKENS.names}, schema=TOKENS),
        "texts": pa.Table.from_pylist(whole, schema=TEXTS),
    }


def _columns(table: pa.Table) -> dict[str, pa.ChunkedArray]:
    return dict(zip(table.column_names, table.columns, strict=True))
