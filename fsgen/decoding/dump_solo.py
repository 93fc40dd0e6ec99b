"""The stage `dump_solo`: a model answers every prompt alone, and leaves a record of each token."""

import numpy as np
import polars as pl
import pyarrow as pa

from fsgen.config.schema import ComputeConfig, DumpConfig, Settings
from fsgen.decoding.engines import generator_of
from fsgen.decoding.protocol import GeneratedTexts
from fsgen.decoding.stored_texts import hash_prompt, text_rows, token_flags
from fsgen.decoding.texts import StopRule, stop_rule
from fsgen.execution import console
from fsgen.execution.executors import open_executor
from fsgen.execution.shards import BatchLimit, Shard, ShardContext, Tables, chunk_prompts, run_shards
from fsgen.models.fingerprint import model_fingerprint
from fsgen.models.loading import load_checked
from fsgen.models.spec import ModelSpec, model_spec, prompt_ids
from fsgen.tables import files, parquet, paths
from fsgen.tables.schemas.dumps import TEXTS, TOKENS


def dump_solo(settings: Settings, name: str) -> None:
    """Let the model `name` answer every prompt of every dataset; writes data/dumps/<name>/."""
    model, dump, compute = model_spec(settings, name), settings.dump, settings.compute
    out = paths.dumps(name)
    with files.atomic_folder(out) as folder, open_executor(compute, load_checked) as executor:
        for dataset, entry in settings.datasets.items():
            prompts = parquet.read(paths.prompts(dataset))
            rule = stop_rule(model, prompts, entry.max_new_tokens, dump.tokens_after_stop)
            chunks = chunk_prompts(prompts, dump.prompts_per_shard)
            shards = [_solo_shard(model, chunk, rule, dump, compute) for chunk in chunks]
            with console.progress(len(prompts), "texts", f"{name} writes {dataset}") as bar:
                run_shards(folder / dataset, shards, executor, bar)
    console.done(f"{out}: the texts of {name} on {', '.join(settings.datasets)} with a record of every token")


def _solo_shard(
    model: ModelSpec, prompts: pl.DataFrame, rule: StopRule, dump: DumpConfig, compute: ComputeConfig
) -> Shard:
    """The work on some prompts."""
    ids = prompt_ids(model, prompts, rule.max_new_tokens)
    ids_of = dict(zip(prompts["prompt_id"], ids, strict=True))

    def make(context: ShardContext) -> Tables:
        (loaded,) = context.loaded.values()
        generate = generator_of(loaded, dump, compute.max_batch_tokens)
        generated = context.budget.run(lambda size: generate(ids_of, rule, size, context.bar))
        return dump_tables(rule, ids_of, generated)

    facts = model_fingerprint(compute, __name__, model) | {
        "what": "generated texts",
        "dump": vars(dump),
        "compute": [compute.batch_size, compute.max_batch_tokens],
        "prompts": [(prompt_id, hash_prompt(ids)) for prompt_id, ids in ids_of.items()],
        "until": [*rule.fingerprint_facts(), [rule.turn_separators.get(prompt_id) for prompt_id in ids_of]],
    }
    limit = BatchLimit(compute.batch_size, "texts side by side")
    return Shard(facts, {"writer": model}, limit, make, len(prompts))


def dump_tables(rule: StopRule, prompts: dict[str, list[int]], generated: GeneratedTexts) -> Tables:
    """The tables `tokens` (TOKENS, sorted by KEY) and `texts` (TEXTS, sorted by prompt_id and turn).

    `prompts` maps prompt ids to tokens, in the order of the generated texts.
    """
    prompt_ids = list(prompts)
    order = sorted(range(len(prompt_ids)), key=prompt_ids.__getitem__)
    rows = [
        row
        for i in order
        for row in text_rows(rule, prompt_ids[i], prompts[prompt_ids[i]], generated.texts[i])
    ]
    return {
        "tokens": _token_rows(prompt_ids, generated, order),
        "texts": pa.Table.from_pylist(rows, schema=TEXTS),
    }


def _token_rows(prompt_ids: list[str], generated: GeneratedTexts, order: list[int]) -> pa.Table:
    """Rows of TOKENS, text after text in this order."""
    texts = [generated.texts[i] for i in order]
    lengths = [len(text.ids) for text in texts]
    flags = token_flags(texts)
    columns = {
        "prompt_id": np.repeat([prompt_ids[i] for i in order], lengths),
        "turn": flags.turn,
        "pos": np.concatenate([np.arange(length) for length in lengths]).astype(np.int32),
        "token_id": np.concatenate([text.ids for text in texts]).astype(np.int32),
        "in_answer": flags.in_answer,
        "from_template": flags.from_template,
    }
    records = generated.records.take(_record_rows(generated, order)).to_table()
    columns |= dict(zip(records.column_names, records.columns, strict=True))
    table = pa.table({name: columns[name] for name in TOKENS.names}, schema=TOKENS)
    parquet.check_key_order(pl.from_arrow(table), "a dump")
    return table


def _record_rows(generated: GeneratedTexts, order: list[int]) -> np.ndarray:
    """Where the records of the texts are, text after text in this order."""
    ends = np.cumsum([len(text.ids) for text in generated.texts])
    return np.concatenate([np.arange(ends[i] - len(generated.texts[i].ids), ends[i]) for i in order])
