"""Reading: models look at texts that are already written, teacher-forced, and leave their records.

Shape legend: B texts in a batch, L positions, N rows (positions of texts), K ids of a padded list,
H hidden width, V usable vocabulary.
"""

import hashlib
from pathlib import Path
from typing import NamedTuple

import numpy as np
import polars as pl
import pyarrow as pa
import torch

from fsgen import checkpoints, console, models, records, store
from fsgen.models import Loaded
from fsgen.settings import Settings
from fsgen.texts import prompt_digest
from fsgen.typed import Complaint

HEAD_ELEMENTS = 1 << 24  # logits alive at once, so that memory does not grow with the text
READS = store.schema(
    [
        ("writer", pa.string(), "role of the model that wrote the text: small, tuned or large"),
        ("reader", pa.string(), "role of the model that reads it"),
        ("prompt_id", pa.string(), "prompt that the text answers"),
        ("turn", pa.int32(), "turn of the conversation, from 1"),
        ("pos", pa.int32(), "place of the token in the text, from 0"),
        ("token_id", pa.int32(), "the token that stands here"),
        ("in_answer", pa.bool_(), "whether ratios count this row"),
        ("forced", pa.bool_(), "whether the token was given, not chosen"),
        *records.COLUMNS,
        records.AT_COLUMN,
        ("max_tuned_gain", pa.float32(), "largest tuned less small logit outside the large model's list"),
    ]
)  # fmt: skip


class Readings(NamedTuple):
    """What one reader left at N rows."""

    records: records.Records
    at_logits_NK: np.ndarray
    gain_N: np.ndarray | None


class Written(NamedTuple):
    """A text with the list that its readers are gathered at."""

    prompt: list[int]
    ids: list[int]
    at_ids_LK: np.ndarray


def dump_large(settings: Settings, pair: str) -> None:
    """The large model reads what the default speakers wrote, gathered at their lists; data/large/<pair>/."""
    members = _checked_members(settings, pair)
    writers = [role for role in members if role != "large"]
    partners = {writer: (f"data/dumps/{members[writer]}/{{dataset}}", None) for writer in writers}
    _dump_reads(
        settings, pair, {writer: ["large"] for writer in writers}, partners, Path("data/large") / pair
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
    _dump_reads(settings, pair, wanted, partners, Path("data/small") / pair)


def _checked_members(settings: Settings, pair: str) -> dict[str, str]:
    members = settings.named("pairs", pair).members()
    described = {role: checkpoints.read_description(model) for role, model in members.items()}
    checkpoints.check_pair(settings, pair, described)
    return members


def _dump_reads(settings: Settings, pair: str, texts: dict, partners: dict, out: Path) -> None:
    """`texts`: writer -> readers; `partners`: writer -> (folder of the lists, their writer there)."""
    members = settings.pairs[pair].members()
    roles = sorted({reader for readers in texts.values() for reader in readers})
    loaded = {role: models.load(settings, members[role]) for role in roles}
    with store.appear(out) as folder:
        for dataset, entry in settings.datasets.items():
            prompts = store.read(f"data/prompts/{dataset}.parquet")
            with console.progress(len(prompts) * len(texts), "texts", f"{pair} reads {dataset}") as bar:
                shards = []
                for writer, readers in texts.items():
                    tables = _TextTables.open(members[writer], *partners[writer], dataset)
                    chosen = {reader: loaded[reader] for reader in readers}
                    for start in range(0, len(prompts), settings.dump.block):
                        block = prompts[start : start + settings.dump.block]
                        shards.append(_read_shard(settings, writer, chosen, block, entry, tables, bar))
                store.finish_shards(folder / dataset, shards, bar)
    console.wrote(f"{out}: {', '.join(members[r] for r in roles)} read the texts of {', '.join(texts)}")


class _TextTables(NamedTuple):
    """A writer's texts, their rows, and the partner's lists at those rows, one row each."""

    texts: pl.DataFrame
    rows: pl.DataFrame

    @classmethod
    def open(cls, writer: str, lists: str, lists_writer: str | None, dataset: str) -> "_TextTables":
        key = ["prompt_id", "turn", "pos"]
        written = f"data/dumps/{writer}/{dataset}"
        rows = store.read(f"{written}/tokens-*.parquet", [*key, "token_id", "in_answer", "forced"])
        if lists_writer is None:
            at = store.read(f"{lists.format(dataset=dataset)}/tokens-*.parquet", [*key, "top_ids"])
        else:
            at = store.read(f"{lists.format(dataset=dataset)}/reads-*.parquet", ["writer", *key, "top_ids"])
            at = at.filter(pl.col("writer") == lists_writer).drop("writer")
        joined = rows.join(at, on=key, how="inner", validate="1:1").sort(key)
        if len(joined) != len(rows):
            raise Complaint(
                f"The lists in {lists.format(dataset=dataset)} do not cover {written}; rerun both."
            )
        return cls(store.read(f"{written}/texts-*.parquet"), joined)


def _read_shard(settings, writer, readers, block, entry, tables: _TextTables, bar) -> store.Shard:
    texts = tables.texts.join(block.select("prompt_id"), on="prompt_id").sort("prompt_id", "turn")
    rows = tables.rows.join(block.select("prompt_id"), on="prompt_id").sort("prompt_id", "turn", "pos")
    prompts = _prompts_of(texts, block, readers, entry)
    facts = models.run_facts(settings, *(loaded.name for loaded in readers.values())) | {
        "what": f"reads by {','.join(readers)}",
        "dump": vars(settings.dump),
        "read_tokens": settings.compute.read_tokens,
        "writer": writer,
        "prompts": [*zip(texts["prompt_id"], texts["prompt_digest"], strict=True)],
        "rows": _digest_rows(rows),
    }

    def make() -> dict[str, pa.Table]:
        cut = np.cumsum(texts["tokens"].to_numpy())[:-1]
        ids = np.split(rows["token_id"].to_numpy(), cut)
        lists = np.split(store.padded(rows["top_ids"], -1), cut)
        written = [Written(p, i.tolist(), a) for p, i, a in zip(prompts, ids, lists, strict=True)]
        readings = read(list(readers.values()), written, settings)
        bar.advance(len(texts), tokens=len(rows) * len(readers))
        return {"reads": _table(writer, dict(zip(readers, readings, strict=True)), rows)}

    return store.Shard(facts, make, len(block))


def _prompts_of(
    texts: pl.DataFrame, block: pl.DataFrame, readers: dict[str, Loaded], entry
) -> list[list[int]]:
    """Prompt ids in the order of `texts`; Complaint unless every reader spells them as the writer did."""
    places = {prompt: place for place, prompt in enumerate(block["prompt_id"])}
    for loaded in readers.values():
        spelt = models.prompt_ids(loaded, block, entry.max_new_tokens)
        prompts = [spelt[places[prompt]] for prompt in texts["prompt_id"]]
        for prompt, ids, digest in zip(texts["prompt_id"], prompts, texts["prompt_digest"], strict=True):
            if prompt_digest(ids) != digest:
                raise Complaint(
                    f"{loaded.name} spells prompt '{prompt}' with other ids than the text's writer; "
                    "a pair's models need the same chat template, or 'prompt: plain'."
                )
    return prompts


def _digest_rows(rows: pl.DataFrame) -> str:
    digest = hashlib.sha256(rows["token_id"].to_numpy().tobytes())
    digest.update(store.padded(rows["top_ids"], -1).tobytes())
    digest.update(rows.select("in_answer", "forced").to_numpy().tobytes())
    return digest.hexdigest()


@torch.inference_mode()
def read(readers: list[Loaded], texts: list[Written], settings: Settings) -> list[Readings]:
    """What each reader says at every position of the texts, rows in the order of the texts.

    The logits of row i are those that predict the text's token i. With two readers (small, tuned)
    the second one's readings hold `gain_N`.
    """
    order = sorted(range(len(texts)), key=lambda i: len(texts[i].prompt) + len(texts[i].ids))
    parts = [
        _read_batch(readers, [texts[i] for i in batch], settings)
        for batch in _batches(order, texts, settings)
    ]
    lengths = np.array([len(texts[i].ids) for i in order])
    starts = np.concatenate([[0], lengths.cumsum()[:-1]])
    place = np.argsort(order)  # text -> its place in the sorted order
    back = np.concatenate([np.arange(starts[p], starts[p] + lengths[p]) for p in place])
    return [_join(column, back) for column in zip(*parts, strict=True)]


def _batches(order: list[int], texts: list[Written], settings: Settings) -> list[list[int]]:
    """Texts of like length together, at most `compute.read_tokens` tokens with padding."""
    batches: list[list[int]] = []
    for i in order:
        length = len(texts[i].prompt) + len(texts[i].ids)
        if not batches or (len(batches[-1]) + 1) * length > settings.compute.read_tokens:
            batches.append([])
        batches[-1].append(i)
    return batches


def _join(parts: tuple[Readings, ...], back: np.ndarray) -> Readings:
    gains = [part.gain_N for part in parts]
    return Readings(
        records.join([part.records for part in parts]).take(back),
        np.concatenate([part.at_logits_NK for part in parts])[back],
        None if gains[0] is None else np.concatenate(gains)[back],
    )


def _read_batch(readers: list[Loaded], texts: list[Written], settings: Settings) -> list[Readings]:
    at_ids_NK = np.concatenate([text.at_ids_LK for text in texts])
    hidden = [_hidden_rows(loaded, texts) for loaded in readers]
    step = max(1, HEAD_ELEMENTS // readers[0].vocabulary)
    chunks = []
    for start in range(0, len(at_ids_NK), step):
        at = at_ids_NK[start : start + step]
        logits = [m.logits(h[start : start + step]) for m, h in zip(readers, hidden, strict=True)]
        gains = [None] * (len(readers) - 1)
        gains += [records.largest_gain(logits[1], logits[0], at) if len(readers) == 2 else None]
        chunks.append(
            [
                Readings(records.record(x, settings.dump), records.gather(x, at), g)
                for x, g in zip(logits, gains, strict=True)
            ]
        )
    everything = np.arange(len(at_ids_NK))
    return [_join(column, everything) for column in zip(*chunks, strict=True)]


def _hidden_rows(loaded: Loaded, texts: list[Written]) -> torch.Tensor:
    """Hidden states that predict the texts' tokens, [N, H]; padding stands on the right, unseen by all."""
    width = max(len(text.prompt) + len(text.ids) for text in texts) - 1
    whole = [(text.prompt + text.ids)[:-1] for text in texts]
    ids_BL = torch.tensor([ids + [0] * (width - len(ids)) for ids in whole], device=loaded.device)
    hidden_BLH = loaded.hidden(ids_BL, use_cache=False)
    rows = [hidden_BLH[i, len(t.prompt) - 1 : len(t.prompt) - 1 + len(t.ids)] for i, t in enumerate(texts)]
    return torch.cat(rows)


def _table(writer: str, readings: dict[str, Readings], rows: pl.DataFrame) -> pa.Table:
    held_NK = store.padded(rows["top_ids"], -1) >= 0
    shared = rows.select("prompt_id", "turn", "pos", "token_id", "in_answer", "forced").to_arrow()
    shared = dict(zip(shared.column_names, shared.columns, strict=True))
    parts = []
    for reader, reading in readings.items():
        own = {
            "writer": np.repeat(writer, len(rows)),
            "reader": np.repeat(reader, len(rows)),
            **shared,
            **reading.records.columns(),
            "at_logits": store.ragged(reading.at_logits_NK, held_NK),
            "max_tuned_gain": pa.nulls(len(rows), pa.float32()) if reading.gain_N is None else reading.gain_N,
        }
        parts.append(pa.table({name: own[name] for name in READS.names}).cast(READS))
    return pa.concat_tables(parts)
