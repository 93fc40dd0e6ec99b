"""Writing alone: a model answers every prompt greedily and leaves a record of each position.

Shape legend: B texts in the batch, N rows (positions of texts), V usable vocabulary.
"""

from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import torch

from fsgen import console, cursor, models, records, store
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
    loaded = cursor.load(settings, name)
    budget = models.Budget(settings.compute.rows, "texts side by side")
    out = Path("data/dumps") / name
    with store.appear(out) as folder:
        for dataset, entry in settings.datasets.items():
            prompts = store.read(f"data/prompts/{dataset}.parquet")
            blocks = [
                prompts[i : i + settings.dump.block] for i in range(0, len(prompts), settings.dump.block)
            ]
            with console.progress(len(prompts), "texts", f"{name} writes {dataset}") as bar:
                until = ending(loaded, prompts, entry.max_new_tokens, settings.dump.tail)
                shards = [_solo_shard(settings, loaded, block, until, budget, bar) for block in blocks]
                store.finish_shards(folder / dataset, shards, bar)
    console.wrote(
        f"{out}: the texts of {name} on {', '.join(settings.datasets)} with a record of every token"
    )


@torch.inference_mode()
def write(
    loaded: Loaded, prompts: list[list[int]], until: Ending, settings: Settings, rows: int, bar: console.Bar
) -> tuple[list[Text], records.Records]:
    """Greedy texts of the prompts, and the records of their rows sorted by text and position.

    At most `rows` texts stand side by side. One that has ended leaves, and once a quarter of them
    have, as many prompts enter.
    """
    desk = _Desk(Cursor(loaded, settings.compute.read_tokens), prompts, rows)
    ids: list[list[int]] = [[] for _ in prompts]
    stopped: dict[int, tuple[str, int]] = {}  # text -> how and where it ended
    owners, parts = [], []
    while desk.is_busy():
        desk.admit()
        part = _record(loaded, desk.hidden_BH, settings.dump)
        alive = desk.alive
        owners.append(alive)
        parts.append(part)
        for text, token in zip(alive, part.top_ids_NK[:, 0].tolist(), strict=True):
            ids[text].append(token)
        _note_endings(alive, ids, until, stopped)
        stays_B = np.array([_goes_on(ids[text], stopped.get(text), until) for text in alive])
        desk.go_on(np.flatnonzero(stays_B), part.top_ids_NK[stays_B, 0])
        bar.advance(int((~stays_B).sum()), tokens=len(alive))
    texts = [_text(t, *stopped[i], until) for i, t in enumerate(ids)]
    # rows of one text were made in the order of their positions, so a stable sort by text suffices
    order = np.argsort(np.concatenate(owners), kind="stable")
    return texts, records.join(parts).take(order)


class _Desk:
    """Texts being written, with the prompts that wait for a place."""

    def __init__(self, cursor: Cursor, prompts: list[list[int]], rows: int):
        self.cursor, self.prompts, self.rows = cursor, prompts, rows
        self.begun = 0
        self.alive = np.zeros(0, dtype=np.int64)
        self.hidden_BH: torch.Tensor | None = None

    def is_busy(self) -> bool:
        return len(self.alive) > 0 or self.begun < len(self.prompts)

    def admit(self) -> None:
        """Let prompts enter where it is worth a pass: a quarter of the rows, or all that wait."""
        entering = self.prompts[self.begun : self.begun + self.rows - len(self.alive)]
        waiting = len(self.prompts) - self.begun
        if not entering or len(entering) < min(waiting, max(1, self.rows // 4)):
            return
        last_B = np.cumsum([len(prompt) for prompt in entering]) - 1
        hidden_BH = self.cursor.enter(entering)[last_B]
        self.hidden_BH = torch.cat([self.hidden_BH, hidden_BH]) if len(self.alive) else hidden_BH
        self.alive = np.append(self.alive, np.arange(self.begun, self.begun + len(entering)))
        self.begun += len(entering)

    def go_on(self, stays: np.ndarray, token_B: np.ndarray) -> None:
        """Keep these texts and append their tokens."""
        self.alive = self.alive[stays]
        self.cursor.select(stays)
        if len(stays):
            self.hidden_BH = self.cursor.extend(token_B[:, None].tolist())


def _record(loaded: Loaded, hidden_NH: torch.Tensor, dump: Dump) -> records.Records:
    spans = loaded.spans(len(hidden_NH))
    return records.join([records.record(loaded.logits(hidden_NH[span]), dump) for span in spans])


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
    settings: Settings, loaded: Loaded, block: pl.DataFrame, until: Ending, budget: models.Budget, bar
) -> store.Shard:
    ids = models.prompt_ids(loaded, block, until.max_new_tokens)
    facts = models.run_facts(settings, loaded.name) | {
        "what": "solo",
        "dump": vars(settings.dump),
        "compute": [settings.compute.rows, settings.compute.read_tokens],
        "prompts": [*zip(block["prompt_id"], map(prompt_digest, ids), strict=True)],
        "until": [until.stops, until.max_new_tokens],
    }

    def make() -> dict[str, pa.Table]:
        texts, rows = budget.spend(lambda size: write(loaded, ids, until, settings, size, bar))
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
