"""The stages `dump_large` and `dump_small`: models read dumped texts and leave a record of each token.

Shape legend: N rows (tokens of texts), K ids of a padded list.
"""

import hashlib
from typing import NamedTuple

import numpy as np
import polars as pl
import pyarrow as pa

from fsgen.collaboration.read_plan import read_plan
from fsgen.config.roles import LARGE, TUNED
from fsgen.config.schema import ComputeConfig, DumpConfig, Settings
from fsgen.decoding import teacher_forcing
from fsgen.decoding.engines import scorer_of
from fsgen.decoding.protocol import TeacherForced, TextToRead
from fsgen.decoding.stored_texts import hash_prompt
from fsgen.errors import UserError
from fsgen.execution import console
from fsgen.execution.executors import open_executor
from fsgen.execution.shards import BatchLimit, Shard, ShardContext, Tables, chunk_prompts, run_shards
from fsgen.models import description, tokenization
from fsgen.models.fingerprint import model_fingerprint
from fsgen.models.loading import load_checked
from fsgen.models.spec import ModelSpec, model_spec, prompt_ids
from fsgen.tables import files, parquet, paths
from fsgen.tables.parquet import KEY
from fsgen.tables.schemas.dumps import READS

TEXT_COLUMNS = [*KEY, "token_id", "in_answer", "from_template"]


class Reading(NamedTuple):
    """Who reads whose texts, and at which lists the readers' logits are gathered."""

    writer: str
    """Role."""
    readers: tuple[str, ...]
    """Roles."""
    uses_large_lists: bool
    """Whether the lists are those of the large model's reading of the text, not those of the writer."""


def dump_large(settings: Settings, pair: str) -> None:
    """Write data/teacher_forced/large/<pair>/: the large model scores the others' texts."""
    writers = [writer for writer in read_plan(settings.methods_of(pair)) if writer != LARGE]
    _dump_reads(settings, pair, [Reading(writer, (LARGE,), uses_large_lists=False) for writer in writers])


def dump_small(settings: Settings, pair: str) -> None:
    """Write data/teacher_forced/small/<pair>/: small and tuned score all texts at the large model's lists.

    The large model's own text is read at the lists that it left there when it wrote.
    """
    readings = [
        Reading(writer, tuple(role for role in readers if role != LARGE), uses_large_lists=writer != LARGE)
        for writer, readers in read_plan(settings.methods_of(pair)).items()
    ]
    _dump_reads(settings, pair, readings)


def _dump_reads(settings: Settings, pair: str, readings: list[Reading]) -> None:
    """Run one stage: all readings of a pair, on every dataset."""
    members = settings.pair(pair).roles()
    described = {role: description.read_description(model) for role, model in members.items()}
    tokenization.check_pair(pair, members, described)
    roles = sorted({reader for reading in readings for reader in reading.readers})
    readers = {role: model_spec(settings, members[role]) for role in roles}
    out = paths.read_by_large(pair) if roles == [LARGE] else paths.read_by_small(pair)
    with files.atomic_folder(out) as folder, open_executor(settings.compute, load_checked) as executor:
        for dataset in settings.datasets:
            shards = _shards(settings, pair, dataset, readings, readers)
            texts = sum(shard.texts for shard in shards)
            with console.progress(texts, "texts", f"{pair} reads {dataset}") as bar:
                run_shards(folder / dataset, shards, executor, bar)
    names = ", ".join(members[role] for role in roles)
    console.done(f"{out}: {names} read the texts of {', '.join(reading.writer for reading in readings)}")


def _shards(
    settings: Settings, pair: str, dataset: str, readings: list[Reading], readers: dict[str, ModelSpec]
) -> list[Shard]:
    """The work on one dataset, a chunk of prompts a shard."""
    members = settings.pair(pair).roles()
    dumps = [_open_dump(reading, members[reading.writer], pair, dataset) for reading in readings]
    max_new_tokens = settings.datasets[dataset].max_new_tokens
    shards = []
    for prompts in chunk_prompts(parquet.read(paths.prompts(dataset)), settings.dump.prompts_per_shard):
        spelled = {role: _spell_prompts(model, prompts, max_new_tokens) for role, model in readers.items()}
        parts = [dump.of_prompts(prompts["prompt_id"], spelled) for dump in dumps]
        shards.append(_read_shard(readers, parts, settings.dump, settings.compute))
    return shards


class SpelledPrompts(NamedTuple):
    """A model's ids of some prompts."""

    model: str
    ids: dict[str, list[int]]
    """By prompt id."""


def _spell_prompts(model: ModelSpec, prompts: pl.DataFrame, max_new_tokens: int) -> SpelledPrompts:
    ids = prompt_ids(model, prompts, max_new_tokens)
    return SpelledPrompts(model.name, dict(zip(prompts["prompt_id"], ids, strict=True)))


class _Dump(NamedTuple):
    """What a writer has dumped, with the list of ids at each token."""

    reading: Reading
    texts: pl.DataFrame
    """prompt_id and prompt_hash, one row a text."""
    rows: pl.DataFrame
    """TEXT_COLUMNS and top_ids, one row a token."""

    def of_prompts(self, prompt_ids: pl.Series, spelled: dict[str, SpelledPrompts]) -> "_TextsToRead":
        """The part that answers these prompts; rows keep their order, which is by KEY within a file."""
        is_chosen = pl.col("prompt_id").is_in(prompt_ids.to_list())
        texts, rows = self.texts.filter(is_chosen), self.rows.filter(is_chosen)
        for reader in self.reading.readers:
            _check_prompts(texts, spelled[reader])
        ids_of = spelled[self.reading.readers[0]].ids
        return _TextsToRead(self.reading, texts, rows, [ids_of[name] for name in texts["prompt_id"]])


def _open_dump(reading: Reading, writer: str, pair: str, dataset: str) -> _Dump:
    """A writer's dump; UserError if the lists do not cover it."""
    folder = paths.dumps(writer, dataset)
    rows = parquet.read(folder / "tokens-*.parquet", TEXT_COLUMNS)
    if reading.uses_large_lists:
        source = paths.read_by_large(pair, dataset)
        lists = parquet.read(source / "reads-*.parquet", ["writer", *KEY, "top_ids"])
        lists = lists.filter(writer=reading.writer).drop("writer")
    else:
        source = folder
        lists = parquet.read(source / "tokens-*.parquet", [*KEY, "top_ids"])
    joined = rows.join(lists, on=KEY, how="inner", validate="1:1", maintain_order="left")
    if len(joined) != len(rows):
        raise UserError(f"The lists in {source} do not cover {folder}; rerun both.")
    texts = parquet.read(folder / "texts-*.parquet", ["prompt_id", "turn", "prompt_hash"])
    return _Dump(reading, texts.filter(turn=1), joined)


def _check_prompts(texts: pl.DataFrame, spelled: SpelledPrompts) -> None:
    """UserError unless a reader's prompt ids are those that the writer was given."""
    for prompt_id, digest in texts.select("prompt_id", "prompt_hash").iter_rows():
        if hash_prompt(spelled.ids[prompt_id]) != digest:
            raise UserError(
                f"{spelled.model} spells prompt '{prompt_id}' with other ids than the text's writer; "
                "a pair's models need the same chat template, or 'prompt_format: plain'."
            )


class _TextsToRead(NamedTuple):
    """One writer's texts of a shard."""

    reading: Reading
    texts: pl.DataFrame
    rows: pl.DataFrame
    prompts: list[list[int]]

    def fingerprint_facts(self) -> dict:
        """What determines the rows that are made of these texts."""
        return {
            "writer": self.reading.writer,
            "readers": self.reading.readers,
            "prompts": self.texts.select("prompt_id", "prompt_hash").rows(),
            "rows": _digest_rows(self.rows),
        }

    def split(self, width: int) -> list[TextToRead]:
        """One entry a text, its lists padded to `width` or more."""
        lengths = self.rows["prompt_id"].rle().struct.field("len").to_numpy()
        ends = np.cumsum(lengths)[:-1]
        ids = np.split(self.rows["token_id"].to_numpy(), ends)
        lists = np.split(parquet.pad_lists(self.rows["top_ids"], -1, width), ends)
        return [
            TextToRead(prompt, ids_L.tolist(), at_ids_LK, self.reading.readers)
            for prompt, ids_L, at_ids_LK in zip(self.prompts, ids, lists, strict=True)
        ]


def _read_shard(
    readers: dict[str, ModelSpec], parts: list[_TextsToRead], dump: DumpConfig, compute: ComputeConfig
) -> Shard:
    """The reading of some prompts' texts by all writers."""

    def make(context: ShardContext) -> Tables:
        score = scorer_of(context.loaded, dump)
        texts = [text for part in parts for text in part.split(dump.max_top_k)]
        scores = context.budget.run(lambda size: score(texts, size))
        tables = []
        for part in parts:
            part_scores, scores = scores[: len(part.texts)], scores[len(part.texts) :]
            tables += _tables(part, part_scores)
            context.bar.advance(len(part.texts), tokens=len(part.rows) * len(part.reading.readers))
        return {"reads": pa.concat_tables(tables)}

    facts = model_fingerprint(compute, __name__, *readers.values()) | {
        "what": f"reads by {', '.join(readers)}",
        "dump": vars(dump),
        "max_batch_tokens": compute.max_batch_tokens,
        "parts": [part.fingerprint_facts() for part in parts],
    }
    limit = BatchLimit(compute.max_batch_tokens, "tokens in a batch")
    return Shard(facts, readers, limit, make, sum(len(part.texts) for part in parts))


def _digest_rows(rows: pl.DataFrame) -> str:
    """Digest of all that a shard's table takes from its rows; positions tell texts and turns apart."""
    digest = hashlib.sha256(rows.select("turn", "pos", "token_id").to_numpy().tobytes())
    digest.update(parquet.pad_lists(rows["top_ids"], -1).tobytes())
    digest.update(rows.select("in_answer", "from_template").to_numpy().tobytes())
    return digest.hexdigest()


def _tables(part: _TextsToRead, scores: list[dict[str, TeacherForced]]) -> list[pa.Table]:
    """Rows of READS for one writer's texts, a table a reader, each sorted by KEY."""
    parquet.check_key_order(part.rows, "a dump")
    return [
        _reader_table(part, reader, teacher_forcing.join([score[reader] for score in scores]))
        for reader in part.reading.readers
    ]


def _reader_table(part: _TextsToRead, reader: str, score: TeacherForced) -> pa.Table:
    size = len(part.rows)
    lists_NK = parquet.pad_lists(part.rows["top_ids"], -1, score.at_logits_NK.shape[1])
    text, records = part.rows.select(TEXT_COLUMNS).to_arrow(), score.records.to_table()
    columns = {
        "writer": np.repeat(part.reading.writer, size),
        "reader": np.repeat(reader, size),
        **dict(zip(text.column_names, text.columns, strict=True)),
        **dict(zip(records.column_names, records.columns, strict=True)),
        "logits_at_partner_ids": parquet.to_list_array(score.at_logits_NK, lists_NK >= 0),
        # the tuned model's rows hold the gain, and the small one's, which read the same text, do not
        "max_tuned_minus_small_outside": pa.array(score.gain_N, mask=np.full(size, reader != TUNED)),
    }
    return pa.table({name: columns[name] for name in READS.names}).cast(READS)
