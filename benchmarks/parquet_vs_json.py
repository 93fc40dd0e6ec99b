"""Bytes of a token's record in Parquet, against FS-GEN's JSON for the same tokens."""

import contextlib
import json
import os
import statistics
from pathlib import Path

import one_thread  # noqa: F401 - before torch
import torch
import worlds
from sidebyside import Case, Row, save

from fsgen.config.load import load_settings
from fsgen.config.schema import Settings
from fsgen.decoding import dump_solo, dump_teacher_forced
from fsgen.models import loaded_model
from fsgen.tables import parquet
from fsgen.tasks import prompts

ROW = Row(
    what="Parquet of both models on a text, bfloat16, logits_at_partner_ids included",
    against="FS-GEN's JSON for the same tokens",
    target=30,
    definition="Bytes of JSON a token (three lists of the 100 most likely {token: probability}: large, small "
    "and fused) over bytes of Parquet a token for both models: twice the bytes a row of "
    "data/teacher_forced, where every row holds logits_at_partner_ids. The JSON is written for the large "
    "model's own texts.",
)
SHARP = 14.0  # makes a random model's entropy like a language model's
PROMPTS, NEW_TOKENS = 64, 64
REAL = ("qwen2.5-coder-0.5b", "qwen2.5-coder-1.5b")
REAL_LIMIT, REAL_TOKENS, JSON_TEXTS = 8, 64, 4
BYTES_TARGET = 80


def main() -> None:
    """Measure bfloat16, and float32 beside it where the models are random."""
    real = os.environ.get("FSGEN_PAIR")
    with on_real(Path(real)) if real else on_sharp("bfloat16") as loaded:
        sizes, parquet, written = measure(loaded)
    case = Case([2 * parquet], [written], sizes, "bytes a token of both models")
    beside = {"bytes a token and model, bfloat16": parquet}
    if not real:
        with on_sharp("float32") as loaded:
            _, beside["bytes a token and model, float32"], _ = measure(loaded)
    also = {"bytes a token and model": {"measured": parquet, "target": BYTES_TARGET, "bound": "at most"}}
    save(Path(__file__).stem, ROW, {"real pair" if real else "random pair": case}, beside, also)


def on_sharp(dtype: str) -> contextlib.AbstractContextManager:
    """A project of two random models with a 152 k vocabulary and sharp distributions."""
    shape = worlds.FORTY_MILLION | {"sharpness": SHARP}
    shapes = {"small": shape, "large": shape | {"num_hidden_layers": 6}}
    pairs = {"duo": ("small", "large")}
    return worlds.on_random(shapes, [16] * PROMPTS, NEW_TOKENS, dtype, pairs=pairs)


@contextlib.contextmanager
def on_real(folder: Path):
    """A project of a real pair on GSM8K's test rows; FSGEN_DATA names the folder that holds them."""
    data = Path(os.environ["FSGEN_DATA"]).resolve() / "gsm8k"
    small, large = (
        {"path": str(folder.resolve() / name), "prompt_format": "chat", "dtype": "bfloat16"} for name in REAL
    )
    dataset = {"task": "gsm8k", "path": str(data), "limit": REAL_LIMIT, "max_new_tokens": REAL_TOKENS}
    changes = {"datasets": {"toy": dataset}, "models": {"small": small, "large": large}}
    with worlds.project({**changes, "pairs": {"duo": ("small", "large")}}):
        loaded = load_settings()
        prompts.write_prompts(loaded, "toy")
        yield worlds.described(loaded)


def measure(loaded: Settings) -> tuple[dict, float, float]:
    """Sizes, bytes of Parquet a token and model, bytes of JSON a token."""
    with worlds.in_memory(loaded) as held:
        for name in ("small", "large"):
            dump_solo.dump_solo(loaded, name)
        dump_teacher_forced.dump_large(loaded, "duo")
        dump_teacher_forced.dump_small(loaded, "duo")
        rows = parquet.read("data/teacher_forced/large/duo/toy/reads-*.parquet").vstack(
            parquet.read("data/teacher_forced/small/duo/toy/reads-*.parquet")
        )
        texts = worlds.read_texts("large", held["large"])[:JSON_TEXTS]
        entries = [entry for prompt, ids in texts for entry in fs_gen_entries(held, prompt, ids)]
    files = [
        *Path("data/teacher_forced/large").rglob("*.parquet"),
        *Path("data/teacher_forced/small").rglob("*.parquet"),
    ]
    listed = rows["top_ids"].list.len()
    sizes = {"rows": len(rows), "rows told apart": rows.select("top_ids", "top_logits").n_unique()}
    sizes |= {"json_tokens": len(entries), "mean entropy, nats": rows["entropy"].mean()}
    sizes |= {
        "mean list": listed.mean(),
        "longest list": listed.max(),
        "vocabulary": held["large"].vocabulary,
    }
    return sizes, sum(f.stat().st_size for f in files) / len(rows), statistics.mean(map(len, entries))


@torch.inference_mode()
def fs_gen_entries(held: dict[str, loaded_model.LoadedModel], prompt: list[int], ids: list[int]) -> list[str]:
    """What FS-GEN's dump holds of every token of one text: three lists of its 100 most likely tokens."""
    whole = torch.tensor([prompt + ids[:-1]])
    large, small = (
        held[role].network(input_ids=whole).logits[0, len(prompt) - 1 :].float()
        for role in ("large", "small")
    )
    lists = {"llm": large, "slm": small, "fused": (large + small) / 2}  # FS-GEN's contrastive rule, beta 0.5
    tops = {name: torch.softmax(logits, -1).topk(100) for name, logits in lists.items()}
    spell = held["large"].tokenizer.convert_ids_to_tokens
    return [
        json.dumps(
            {
                name: [
                    {t: p}
                    for t, p in zip(spell(top.indices[i].tolist()), top.values[i].tolist(), strict=True)
                ]
                for name, top in tops.items()
            }
        )
        for i in range(len(ids))
    ]


if __name__ == "__main__":
    main()
