"""Reading: models look at texts that are already written, teacher-forced, and leave their records.

Shape legend: N rows (positions of texts), K ids of a padded list.
"""

import hashlib
from pathlib import Path
from typing import NamedTuple

import numpy as np
import polars as pl
import pyarrow as pa

from fsgen.config.schema import Settings
from fsgen.decoding import teacher_forcing
from fsgen.decoding.teacher_forcing import TeacherForced, TextToRead
from fsgen.decoding.texts import hash_prompt
from fsgen.errors import UserError
from fsgen.execution import console
from fsgen.execution.executors import open_executor
from fsgen.execution.shards import Shard, ShardContext, chunk_prompts, run_shards
from fsgen.models import description, fingerprint, tokenization
from fsgen.models.loading import load_checked
from fsgen.models.spec import ModelSpec, model_spec, prompt_ids
from fsgen.tables import files, parquet, paths
from fsgen.tables.parquet import KEY
from fsgen.tables.schemas.dumps import READS


def dump_large(settings: Settings, pair: str) -> None:
    """The large model reads what the default speakers wrote, gathered at their lists; data/large/<pair>/."""
    members = _checked_members(settings, pair)
    writers = [role for role in members if role != "large"]
    partners = {writer: (f"data/dumps/{members[writer]}/{{dataset}}", None) for writer in writers}
    _dump_reads(
        settings, pair, {writer: ["large"] for writer in writers}, partners, paths.read_by_large(pair)
    )


def dump_small(settings: Settings, pair: str) -> None:
    """Small and tuned read the large model's text and their own, gathered at its list; data/small/<pair>/.

    The tuned model's text is read by both, since proxy's fused score there needs both.
    """
    members = _checked_members(settings, pair)
    readers = [role for role in members if role != "large"]
    texts = {"large": readers, "small": ["small"], "tuned": ["small", "tuned"]}
    partners = {"large": (f"data/dumps/{members['large']}/{{dataset}}", None)}
    partners |= {role: (f"data/large/{pair}/{{dataset}}", role) for role in readers}
    wanted = {writer: texts[writer] for writer in members}
    _dump_reads(settings, pair, wanted, partners, paths.read_by_small(pair))


def _checked_members(settings: Settings, pair: str) -> dict[str, str]:
    members = settings.pair(pair).roles()
    described = {role: description.read_description(model) for role, model in members.items()}
    tokenization.check_pair(settings, pair, described)
    return members


def _dump_reads(settings: Settings, pair: str, texts: dict, partners: dict, out: Path) -> None:
    """`texts`: writer -> readers; `partners`: writer -> (folder of the lists, their writer there)."""
    members = settings.pairs[pair].roles()
    roles = sorted({reader for readers in texts.values() for reader in readers})
    readers = {role: model_spec(settings, members[role]) for role in roles}
    with files.atomic_folder(out) as folder, open_executor(settings, load_checked) as crew:
        for dataset, entry in settings.datasets.items():
            prompts = parquet.read(paths.prompts(dataset))
            tables = {w: _TextTables.open(members[w], *partners[w], dataset) for w in texts}
            with console.progress(len(prompts) * len(texts), "texts", f"{pair} reads {dataset}") as bar:
                shards = []
                for block in chunk_prompts(prompts, settings.dump.block):
                    parts = [_Part.open(w, texts[w], tables[w], block, readers, entry) for w in texts]
                    shards.append(_read_shard(settings, readers, parts))
                run_shards(folder / dataset, shards, crew, bar)
    console.done(f"{out}: {', '.join(members[r] for r in roles)} read the texts of {', '.join(texts)}")


class _TextTables(NamedTuple):
    """A writer's texts, their rows, and the partner's lists at those rows, one row each."""

    texts: pl.DataFrame
    rows: pl.DataFrame

    @classmethod
    def open(cls, writer: str, lists: str, lists_writer: str | None, dataset: str) -> "_TextTables":
        written = paths.dumps(writer, dataset)
        rows = parquet.read(f"{written}/tokens-*.parquet", [*KEY, "token_id", "in_answer", "forced"])
        if lists_writer is None:
            at = parquet.read(f"{lists.format(dataset=dataset)}/tokens-*.parquet", [*KEY, "top_ids"])
        else:
            at = parquet.read(f"{lists.format(dataset=dataset)}/reads-*.parquet", ["writer", *KEY, "top_ids"])
            at = at.filter(pl.col("writer") == lists_writer).drop("writer")
        joined = rows.join(at, on=KEY, how="inner", validate="1:1").sort(KEY)
        if len(joined) != len(rows):
            raise UserError(
                f"The lists in {lists.format(dataset=dataset)} do not cover {written}; rerun both."
            )
        return cls(parquet.read(f"{written}/texts-*.parquet"), joined)


class _Part(NamedTuple):
    """One writer's texts of a shard, and their rows with the partner's lists."""

    writer: str
    readers: tuple[str, ...]
    texts: pl.DataFrame
    """Their first turns, which name the prompts."""
    rows: pl.DataFrame
    prompts: list[list[int]]

    @classmethod
    def open(cls, writer, readers, tables: _TextTables, block: pl.DataFrame, models: dict, entry) -> "_Part":
        mine = block.select("prompt_id")
        texts = tables.texts.filter(turn=1).join(mine, on="prompt_id").sort("prompt_id")
        rows = tables.rows.join(mine, on="prompt_id").sort("prompt_id", "pos")
        prompts = _prompts_of(texts, block, [models[reader] for reader in readers], entry)
        return cls(writer, tuple(readers), texts, rows, prompts)

    def facts(self) -> dict:
        prompts = [*zip(self.texts["prompt_id"], self.texts["prompt_digest"], strict=True)]
        about = {"writer": self.writer, "readers": self.readers, "prompts": prompts}
        return about | {"rows": _digest_rows(self.rows)}

    def written(self, width: int) -> list[TextToRead]:
        _, lengths = np.unique(self.rows["prompt_id"].to_numpy(), return_counts=True)
        cut = np.cumsum(lengths)[:-1]
        ids = np.split(self.rows["token_id"].to_numpy(), cut)
        lists = np.split(parquet.pad_lists(self.rows["top_ids"], -1, width), cut)
        return [
            TextToRead(prompt, i.tolist(), at, self.readers)
            for prompt, i, at in zip(self.prompts, ids, lists, strict=True)
        ]


def _read_shard(settings: Settings, readers: dict[str, ModelSpec], parts: list[_Part]) -> Shard:
    facts = fingerprint.model_fingerprint(settings, __name__, *(model.name for model in readers.values())) | {
        "what": f"reads by {', '.join(readers)}",
        "dump": vars(settings.dump),
        "read_tokens": settings.compute.read_tokens,
        "parts": [part.facts() for part in parts],
    }

    def make(hands: ShardContext) -> dict[str, pa.Table]:
        written = [text for part in parts for text in part.written(settings.dump.k_max)]
        readings = hands.budget.spend(
            lambda size: teacher_forcing.teacher_force(hands.loaded, written, settings, size)
        )
        tables = []
        for part in parts:
            mine, readings = readings[: len(part.texts)], readings[len(part.texts) :]
            tables.append(_table(part, mine))
            hands.bar.advance(len(part.texts), tokens=len(part.rows) * len(part.readers))
        return {"reads": pa.concat_tables(tables)}

    limit = (settings.compute.read_tokens, "tokens in a batch")
    return Shard(facts, readers, limit, make, sum(len(part.texts) for part in parts))


def _prompts_of(texts: pl.DataFrame, block: pl.DataFrame, readers: list[ModelSpec], entry) -> list[list[int]]:
    """Prompt ids in the order of `texts`; Complaint unless every reader spells them as the writer did."""
    places = {prompt: place for place, prompt in enumerate(block["prompt_id"])}
    for model in readers:
        spelt = prompt_ids(model, block, entry.max_new_tokens)
        prompts = [spelt[places[prompt]] for prompt in texts["prompt_id"]]
        for prompt, ids, digest in zip(texts["prompt_id"], prompts, texts["prompt_digest"], strict=True):
            if hash_prompt(ids) != digest:
                raise UserError(
                    f"{model.name} spells prompt '{prompt}' with other ids than the text's writer; "
                    "a pair's models need the same chat template, or 'prompt: plain'."
                )
    return prompts


def _digest_rows(rows: pl.DataFrame) -> str:
    """Digest of all that a shard's table takes from its rows; their places tell texts and turns apart."""
    digest = hashlib.sha256(rows.select("turn", "pos", "token_id").to_numpy().tobytes())
    digest.update(parquet.pad_lists(rows["top_ids"], -1).tobytes())
    digest.update(rows.select("in_answer", "forced").to_numpy().tobytes())
    return digest.hexdigest()


def _table(part: _Part, readings: list[dict[str, TeacherForced]]) -> pa.Table:
    held_NK = (
        parquet.pad_lists(part.rows["top_ids"], -1, readings[0][part.readers[0]].at_logits_NK.shape[1]) >= 0
    )
    shared = part.rows.select("prompt_id", "turn", "pos", "token_id", "in_answer", "forced").to_arrow()
    shared = dict(zip(shared.column_names, shared.columns, strict=True))
    tables = []
    for reader in part.readers:
        reading = teacher_forcing.join([found[reader] for found in readings])
        knows_gain = reader == "tuned"
        own = {
            "writer": np.repeat(part.writer, len(part.rows)),
            "reader": np.repeat(reader, len(part.rows)),
            **shared,
            **dict(zip(reading.records.to_table().column_names, reading.records.to_table().columns, strict=True)),
            "at_logits": parquet.to_list_array(reading.at_logits_NK, held_NK),
            "max_tuned_gain": pa.array(reading.gain_N, mask=np.full(len(part.rows), not knows_gain)),
        }
        tables.append(pa.table({name: own[name] for name in READS.names}).cast(READS))
    return pa.concat_tables(tables)
