"""Writing alone: a model answers every prompt greedily and leaves a record of each position.

Shape legend: B texts in the batch, N rows (positions of texts), V usable vocabulary.
"""

from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import torch

from fsgen import console, models, records, store
from fsgen.cursor import Cursor
from fsgen.models import Loaded
from fsgen.settings import Dump, Settings
from fsgen.texts import TEXTS, Ending, Text, ending, prompt_digest, text_row

TOKENS = store.schema(
    [
        ("prompt_id", pa.string(), "prompt that the text answers"),
        ("turn", pa.int32(), "turn of the conversation, from 1"),
        ("pos", pa.int32(), "place of the token in the text, from 0"),
        ("token_id", pa.int32(), "the token written here"),
        ("in_answer", pa.bool_(), "whether ratios count this row: true through the end of the answer"),
        ("forced", pa.bool_(), "whether the token was given, not chosen"),
        *records.COLUMNS,
    ]
)


def dump_solo(settings: Settings, name: str) -> None:
    """Let the model `name` answer every prompt of every dataset; writes data/dumps/<name>/."""
    loaded = models.load(settings, name)
    out = Path("data/dumps") / name
    with store.appear(out) as folder:
        for dataset, entry in settings.datasets.items():
            prompts = store.read(f"data/prompts/{dataset}.parquet")
            blocks = [
                prompts[i : i + settings.dump.block] for i in range(0, len(prompts), settings.dump.block)
            ]
            with console.progress(len(prompts), "texts", f"{name} writes {dataset}") as bar:
                shards = [_solo_shard(settings, loaded, block, entry.max_new_tokens, bar) for block in blocks]
                store.finish_shards(folder / dataset, shards, bar)
    console.wrote(
        f"{out}: the texts of {name} on {', '.join(settings.datasets)} with a record of every token"
    )


@torch.inference_mode()
def write(
    loaded: Loaded, prompts: list[list[int]], until: Ending, dump: Dump, bar: console.Bar
) -> tuple[list[Text], records.Records]:
    """Greedy texts of the prompts, and the records of their rows sorted by text and position.

    A text whose end is reached leaves the batch, so the rest goes on faster.
    """
    cursor = Cursor(loaded, prompts)
    ids: list[list[int]] = [[] for _ in prompts]
    stopped: dict[int, tuple[str, int]] = {}  # text -> how and where it ended
    alive = np.arange(len(prompts))
    owners, parts = [], []
    while len(alive):
        part = records.record(cursor.logits_BV, dump)
        owners.append(alive)
        parts.append(part)
        for text, token in zip(alive, part.top_ids_NK[:, 0].tolist(), strict=True):
            ids[text].append(token)
        _note_endings(alive, ids, until, stopped)
        stays_B = np.array([_goes_on(ids[text], stopped.get(text), until) for text in alive])
        if stays_B.any():
            rows_B = torch.from_numpy(np.flatnonzero(stays_B)).to(loaded.device)
            cursor.select(rows_B)
            cursor.step(torch.from_numpy(part.top_ids_NK[stays_B, 0]).to(loaded.device).long())
        bar.advance(int((~stays_B).sum()), tokens=len(alive))
        alive = alive[stays_B]
    texts = [_text(t, *stopped[i], until) for i, t in enumerate(ids)]
    # rows of one text were made in the order of their positions, so a stable sort by text suffices
    order = np.argsort(np.concatenate(owners), kind="stable")
    return texts, records.join(parts).take(order)


def _text(ids: list[int], reason: str, length: int, until: Ending) -> Text:
    """A text that ended at `length` tokens; what follows is its tail."""
    return Text(ids, reason, until.answer_tokens(ids[:length], reason), len(ids) - length)


def _note_endings(alive: np.ndarray, ids: list[list[int]], until: Ending, stopped: dict) -> None:
    for text, reason in zip(alive, until.reasons([ids[text] for text in alive]), strict=True):
        if reason and text not in stopped:
            stopped[text] = (reason, len(ids[text]))


def _goes_on(ids: list[int], stop: tuple[str, int] | None, until: Ending) -> bool:
    """Whether a text is written on: it has not ended, or its tail is not full."""
    if stop is None:
        return True
    reason, length = stop
    tail_ended = ids[-1] in until.stop_ids or len(ids) >= min(length + until.tail, until.max_new_tokens)
    return reason == "stop" and not tail_ended


def _solo_shard(
    settings: Settings, loaded: Loaded, block: pl.DataFrame, max_new_tokens: int, bar
) -> store.Shard:
    ids = models.prompt_ids(loaded, block, max_new_tokens)
    until = ending(loaded, block, max_new_tokens, settings.dump.tail)
    facts = models.run_facts(settings, loaded.name) | {
        "what": "solo",
        "dump": vars(settings.dump),
        "rows": settings.compute.rows,
        "prompts": [*zip(block["prompt_id"], map(prompt_digest, ids), strict=True)],
        "until": [until.stops, until.max_new_tokens],
    }

    def make() -> dict[str, pa.Table]:
        step = settings.compute.rows
        batches = [ids[i : i + step] for i in range(0, len(ids), step)]
        done = [write(loaded, batch, until, settings.dump, bar) for batch in batches]
        texts = [text for batch, _ in done for text in batch]
        rows = records.join([part for _, part in done])
        return tables(until, block["prompt_id"].to_list(), ids, texts, rows)

    return store.Shard(facts, make, len(block))


def tables(
    until: Ending, prompt_ids: list[str], ids: list[list[int]], texts: list[Text], rows
) -> dict[str, pa.Table]:
    """The shard's two tables, `tokens` (TOKENS) and `texts` (TEXTS), sorted by prompt and position."""
    order = sorted(range(len(texts)), key=prompt_ids.__getitem__)
    lengths = np.array([len(text.ids) for text in texts])
    starts = np.concatenate([[0], lengths.cumsum()[:-1]])
    picked = np.concatenate([np.arange(starts[i], starts[i] + lengths[i]) for i in order])
    pos_N = np.concatenate([np.arange(lengths[i]) for i in order]).astype(np.int32)
    counted_N = np.repeat([texts[i].answer_tokens for i in order], lengths[order])
    tokens = {
        "prompt_id": np.repeat([prompt_ids[i] for i in order], lengths[order]),
        "turn": np.ones(len(pos_N), dtype=np.int32),
        "pos": pos_N,
        "token_id": np.concatenate([texts[i].ids for i in order]).astype(np.int32),
        "in_answer": pos_N < counted_N,
        "forced": np.zeros(len(pos_N), dtype=bool),
        **rows.take(picked).columns(),
    }
    whole = [text_row(until, prompt_ids[i], ids[i], texts[i]) for i in order]
    return {
        "tokens": pa.table(tokens, schema=TOKENS),
        "texts": pa.Table.from_pylist(whole, schema=TEXTS),
    }
