"""Reading a text with its records, against the model's bare forward pass over the same texts."""

import subprocess
import sys
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
    against="the model's bare forward pass on the same batches",
    target=0.85,
    definition="CPU time of network(input_ids), head included, over CPU time of the whole stage dump_large "
    "on the same texts; both take the texts sorted by length, at most compute.max_batch_tokens a batch. "
    "The stage makes logits at the text's own positions alone, the forward pass at those of the prompt too. "
    "Stored maximum, logsumexp and top logits equal the forward pass's within 1e-4.",
)
BIG = {"prompts": [8] * 8, "new_tokens": 64, "compute": worlds.BASE["compute"] | {"max_batch_tokens": 512}}
SMALL_LIMIT = 200
PEAKS = [(128, worlds.WORDS), (512, worlds.WORDS), (512, worlds.WORDS // 4)]  # tokens a text, vocabulary
PEAK_SHAPE = worlds.FORTY_MILLION | {"num_hidden_layers": 1}


def main() -> None:
    """Measure the two models and the peak memory of the reading stage."""
    pairs = {"duo": ("writer", "reader")}
    shapes = {"writer": worlds.FORTY_MILLION, "reader": worlds.HALF_BILLION}
    cases = {}
    with worlds.on_random(shapes, **BIG, pairs=pairs) as loaded:
        cases["qwen2 0.5b"] = compare(loaded, "writer", "reader")
    with worlds.on_arith(
        ["base-23k", "base-451k"], SMALL_LIMIT, pairs={"duo": ("base-23k", "base-451k")}
    ) as loaded:
        cases["embedded 451k"] = compare(loaded, "base-23k", "base-451k")
    save(Path(__file__).stem, ROW, cases, beside={"peak memory, MB": peaks()})


def compare(loaded: Settings, writer: str, reader: str) -> Case:
    """`reader` reads what `writer` wrote, as a stage and bare."""
    with worlds.in_memory(loaded) as held:
        dump_solo.dump_solo(loaded, writer)
        texts = worlds.read_texts(writer, held[writer])
        batches = batch(texts, loaded.compute.max_batch_tokens)
        ours, theirs, _, _ = alternate(
            lambda: dump_teacher_forced.dump_large(loaded, "duo"),
            lambda: forward(held[reader], batches),
            lambda: worlds.forget("data/teacher_forced/large"),
        )
        check(held[reader], texts)
    tokens = sum(len(ids) for _, ids in texts)
    sizes = {"texts": len(texts), "tokens": tokens, "prompt_tokens": sum(len(p) for p, _ in texts)}
    sizes |= {"vocabulary": held[reader].vocabulary, "max_batch_tokens": loaded.compute.max_batch_tokens}
    return Case(ours, theirs, sizes)


def batch(texts: list, max_batch_tokens: int) -> list[torch.Tensor]:
    """Texts of like length together, padded on the right, as the stage takes them."""
    batches: list[list[list[int]]] = []
    for ids in sorted(((prompt + written)[:-1] for prompt, written in texts), key=len):
        if not batches or (len(batches[-1]) + 1) * (len(ids) + 1) > max_batch_tokens:
            batches.append([])
        batches[-1].append(ids)
    return [torch.tensor([ids + [0] * (len(rows[-1]) - len(ids)) for ids in rows]) for rows in batches]


@torch.inference_mode()
def forward(held: loaded_model.LoadedModel, batches: list[torch.Tensor]) -> None:
    """The bare forward pass, logits thrown away."""
    for ids_BL in batches:
        held.network(input_ids=ids_BL, use_cache=False)


@torch.inference_mode()
def check(held: loaded_model.LoadedModel, texts: list) -> None:
    """The stage's numbers are those of a forward pass over each text by itself."""
    rows = (
        parquet.read("data/teacher_forced/large/duo/toy/reads-*.parquet")
        .sort("prompt_id", "pos")
        .partition_by("prompt_id")
    )
    for (prompt, ids), stored in list(zip(texts, rows, strict=True))[:8]:
        whole = held.network(input_ids=torch.tensor([prompt + ids[:-1]]), use_cache=False).logits
        logits = whole[0, len(prompt) - 1 :, : held.vocabulary]
        wanted = {"max_logit": logits.amax(-1), "logsumexp": logits.logsumexp(-1)}
        for name, values in wanted.items():
            np.testing.assert_allclose(stored[name].to_numpy(), values.numpy(), rtol=0, atol=1e-4)
        for row, listed in enumerate(stored["top_ids"].to_list()):
            reported = stored["top_logits"][row].to_numpy()
            np.testing.assert_allclose(reported, logits[row, listed].numpy(), rtol=0, atol=1e-4)


def peaks() -> dict[str, float]:
    """Growth of the resident set while four texts are read, in fresh processes."""
    grown = {}
    for length, words in PEAKS:
        shapes = {"writer": PEAK_SHAPE | {"vocab_size": words}, "reader": PEAK_SHAPE | {"vocab_size": words}}
        pairs = {"duo": ("writer", "reader")}
        with worlds.on_random(shapes, [8] * 4, length, words=words, pairs=pairs) as loaded:
            dump_solo.dump_solo(loaded, "writer")
            for side in ("ours", "bare"):
                command = [sys.executable, str(Path(__file__).with_name("peak_memory.py")), side]
                reported = subprocess.run(command, check=True, capture_output=True, text=True).stdout
                grown[f"{side}, {length} tokens a text, {words} ids"] = float(reported.split()[-1])
    return grown


if __name__ == "__main__":
    main()
