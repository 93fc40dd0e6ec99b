"""Reading a text at once, against reading it token by token with a key-value cache, as FS-GEN does."""

from pathlib import Path

import numpy as np
import one_thread  # noqa: F401 - before torch
import torch
import worlds
from sidebyside import Case, Row, alternate, save

from fsgen.config.schema import Settings
from fsgen.decoding import dump_solo, dump_teacher_forced
from fsgen.models import loaded_model
from fsgen.tables import parquet

ROW = Row(
    what="reading a text: lists, logsumexp, entropy, partner's ids, Parquet",
    against="token by token with a key-value cache, batch 1 (FS-GEN's loop)",
    target=12,
    definition="CPU time of a loop that feeds one token a step and keeps argmax, logsumexp and the top 100 "
    "probabilities in memory, over CPU time of the whole stage dump_large on the same texts. "
    "Argmax equal at every position, logsumexp within 1e-4.",
)
PROMPTS, NEW_TOKENS = 16, 48
ARITH_LIMIT = 64


def main() -> None:
    """Measure a 152 k vocabulary and the embedded family's largest model."""
    pairs = {"duo": ("writer", "reader")}
    shapes = {"writer": worlds.FORTY_MILLION, "reader": worlds.FORTY_MILLION}
    cases = {}
    with worlds.on_random(shapes, [16] * PROMPTS, NEW_TOKENS, pairs=pairs) as loaded:
        cases["qwen2 40m, 152k ids"] = compare(loaded, "writer", "reader")
    pairs = {"duo": ("base-23k", "base-451k")}
    with worlds.on_arith(["base-23k", "base-451k"], ARITH_LIMIT, pairs=pairs) as loaded:
        cases["embedded 451k"] = compare(loaded, "base-23k", "base-451k")
    save(Path(__file__).stem, ROW, cases)


def compare(loaded: Settings, writer: str, reader: str) -> Case:
    """`reader` reads what `writer` wrote, as a stage and in a loop."""
    with worlds.in_memory(loaded) as held:
        dump_solo.dump_solo(loaded, writer)
        texts = worlds.read_texts(writer, held[writer])
        ours, theirs, _, looped = alternate(
            lambda: dump_teacher_forced.dump_large(loaded, "duo"),
            lambda: [step_through(held[reader], prompt, ids) for prompt, ids in texts],
            lambda: worlds.forget("data/teacher_forced/large"),
        )
    check(looped)
    tokens = sum(len(ids) for _, ids in texts)
    return Case(ours, theirs, {"texts": len(texts), "tokens": tokens, "vocabulary": held[reader].vocabulary})


@torch.inference_mode()
def step_through(held: loaded_model.LoadedModel, prompt: list[int], ids: list[int]) -> list[tuple]:
    """Argmax, logsumexp and top 100 at every position of one text, one token fed at a time."""
    kept, fed, cache = [], torch.tensor([prompt]), None
    for token in ids:
        message = held.network(input_ids=fed, past_key_values=cache, use_cache=True, logits_to_keep=1)
        logits = message.logits[0, -1, : held.vocabulary]
        top = torch.softmax(logits, -1).topk(min(100, len(logits)))
        kept.append(
            (int(logits.argmax()), float(logits.logsumexp(-1)), top.indices.tolist(), top.values.tolist())
        )
        fed, cache = torch.tensor([[token]]), message.past_key_values
    return kept


def check(looped: list[list[tuple]]) -> None:
    """The stage's tokens and sums are the loop's."""
    stored = parquet.read("data/teacher_forced/large/duo/toy/reads-*.parquet").sort("prompt_id", "pos")
    rows = [row for text in looped for row in text]
    np.testing.assert_array_equal(stored["top_ids"].list.first().to_numpy(), [row[0] for row in rows])
    np.testing.assert_allclose(stored["logsumexp"].to_numpy(), [row[1] for row in rows], rtol=0, atol=1e-4)


if __name__ == "__main__":
    main()
