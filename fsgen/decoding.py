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
from fsgen.engines import open_crew
from fsgen.models import Loaded
from fsgen.outlines import Outline, outline, prompt_ids
from fsgen.settings import Dump, Settings
from fsgen.shards import Hands, Shard, blocks, finish_shards
from fsgen.texts import TEXTS, Ending, Text, ending, marks, prompt_digest, text_rows

ROOMS = ("decoding",)
TOKENS = store.schema(
    [
        ("prompt_id", pa.string(), "prompt that the text answers"),
        ("turn", pa.int32(), "turn of the conversation, from 1"),
        ("pos", pa.int32(), "place of the token in the text, from 0, through all turns"),
        ("token_id", pa.int32(), "the token written here"),
        ("in_answer", pa.bool_(), "whether ratios count this row: true through the end of the answer"),
        ("forced", pa.bool_(), "whether the token was given, not chosen"),
        *records.COLUMNS,
    ]
)


def dump_solo(settings: Settings, name: str) -> None:
    """Let the model `name` answer every prompt of every dataset; writes data/dumps/<name>/."""
    model = outline(settings, name)
    out = Path("data/dumps") / name
    with store.appear(out) as folder, open_crew(settings) as crew:
        for dataset, entry in settings.datasets.items():
            prompts = store.read(f"data/prompts/{dataset}.parquet")
            with console.progress(len(prompts), "texts", f"{name} writes {dataset}") as bar:
                until = ending(model, prompts, entry.max_new_tokens, settings.dump.tail)
                cut = blocks(prompts, settings.dump.block)
                shards = [_solo_shard(settings, model, block, until) for block in cut]
                finish_shards(folder / dataset, shards, crew, bar)
    console.wrote(
        f"{out}: the texts of {name} on {', '.join(settings.datasets)} with a record of every token"
    )


@torch.inference_mode()
def write(
    loaded: Loaded,
    prompts: dict[str, list[int]],
    until: Ending,
    settings: Settings,
    rows: int,
    bar: console.Bar,
) -> tuple[list[Text], records.Records]:
    """Greedy texts of the prompts, and the records of their rows sorted by text and position.

    At most `rows` texts stand side by side. One that has ended leaves, and once a quarter of them
    have, as many prompts enter.
    """
    desk = _Desk(Cursor(loaded, settings.compute.read_tokens), [*prompts.values()], rows)
    names, texts = [*prompts], [Text([]) for _ in prompts]
    owners, parts = [], []
    while desk.is_busy():
        desk.admit()
        part = _record(loaded, desk.hidden_BH, settings.dump)
        alive = desk.alive
        owners.append(alive)
        parts.append(part)
        lengths = [len(texts[i].ids) for i in alive]
        for i, token in zip(alive, part.top_ids_NK[:, 0].tolist(), strict=True):
            texts[i].ids.append(token)
        _close_turns(alive, texts, names, until)
        stays_B = np.array([_goes_on(names[i], texts[i], until) for i in alive])
        fed = [texts[i].ids[n:] for i, n, stays in zip(alive, lengths, stays_B, strict=True) if stays]
        forced_NH = desk.go_on(np.flatnonzero(stays_B), fed)
        if len(forced_NH):  # the tokens of a next question, which nobody chose, have their records too
            owners.append(np.repeat(desk.alive, [len(ids) - 1 for ids in fed]))
            parts.append(_record(loaded, forced_NH, settings.dump))
        bar.advance(int((~stays_B).sum()), tokens=len(alive))
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

    def go_on(self, stays: np.ndarray, fed: list[list[int]]) -> torch.Tensor:
        """Keep these texts and append these tokens; hidden states [N, H] that come before a text's last."""
        self.alive = self.alive[stays]
        self.cursor.select(stays)
        if not fed:
            return torch.empty(0)
        hidden_NH = self.cursor.extend(fed)
        last_B = np.cumsum([len(ids) for ids in fed]) - 1
        is_last_N = np.zeros(len(hidden_NH), dtype=bool)
        is_last_N[last_B] = True
        self.hidden_BH = hidden_NH[is_last_N]
        return hidden_NH[~is_last_N]


def _record(loaded: Loaded, hidden_NH: torch.Tensor, dump: Dump) -> records.Records:
    spans = loaded.spans(len(hidden_NH))
    return records.join([records.record(loaded.logits(hidden_NH[span]), dump) for span in spans])


def _close_turns(alive: np.ndarray, texts: list[Text], names: list[str], until: Ending) -> None:
    """End the turns that the last tokens have ended, where a next question follows with its tokens."""
    writing = [i for i in alive if not until.is_finished(names[i], texts[i])]  # the others write a tail
    grown = until.advance([names[i] for i in writing], [texts[i] for i in writing])
    for i, text in zip(writing, grown, strict=True):
        texts[i] = text


def _goes_on(name: str, text: Text, until: Ending) -> bool:
    """Whether a text is written on: it has not ended, or its tail is not full."""
    if not until.is_finished(name, text):
        return True
    turn = text.turns[-1]
    longest = min(turn.end + until.tail, turn.written + until.max_new_tokens)
    return turn.finish_reason == "stop" and text.ids[-1] not in until.stop_ids and len(text.ids) < longest


def _solo_shard(settings: Settings, model: Outline, block: pl.DataFrame, until: Ending) -> Shard:
    ids = prompt_ids(model, block, until.max_new_tokens)
    facts = models.run_facts(settings, ROOMS, model.name) | {
        "what": "solo",
        "dump": vars(settings.dump),
        "compute": [settings.compute.rows, settings.compute.read_tokens],
        "prompts": [*zip(block["prompt_id"], map(prompt_digest, ids), strict=True)],
        "until": [*until.facts(), [until.bridges.get(name) for name in block["prompt_id"]]],
    }

    def make(hands: Hands) -> dict[str, pa.Table]:
        (loaded,) = hands.loaded.values()
        prompts = dict(zip(block["prompt_id"], ids, strict=True))
        texts, rows = hands.budget.spend(
            lambda size: write(loaded, prompts, until, settings, size, hands.bar)
        )
        return tables(until, prompts, texts, rows)

    limit = (settings.compute.rows, "texts side by side")
    return Shard(facts, {"writer": model}, limit, make, len(block))


def tables(
    until: Ending, prompts: dict[str, list[int]], texts: list[Text], rows: records.Records
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
        **marks([texts[i] for i in order])._asdict(),
        **rows.take(picked).columns(),
    }
    whole = [row for i in order for row in text_rows(until, names[i], prompts[names[i]], texts[i])]
    return {
        "tokens": pa.table({name: tokens[name] for name in TOKENS.names}, schema=TOKENS),
        "texts": pa.Table.from_pylist(whole, schema=TEXTS),
    }
