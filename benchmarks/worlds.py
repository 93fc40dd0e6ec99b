"""Project folders for the benchmarks: params, prompts, and models of the embedded family or random ones."""

import contextlib
import functools
import json
import os
import shutil
import string
import tempfile
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import numpy as np
import one_thread  # noqa: F401 - before torch
import polars as pl
import tokenizers
import torch
import yaml
from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

from fsgen.config.load import load_settings
from fsgen.config.schema import Settings
from fsgen.models import description, loaded_model, loading, tokenization
from fsgen.tables import parquet
from fsgen.tasks import prompts

ROOT = Path(__file__).parent.parent
WORDS = 151_665  # ids of Qwen2.5's tokenizer
HALF_BILLION = {
    "vocab_size": 151_936,
    "hidden_size": 896,
    "num_hidden_layers": 24,
    "num_attention_heads": 14,
    "num_key_value_heads": 2,
    "intermediate_size": 4864,
    "tie_word_embeddings": True,
}
FORTY_MILLION = {
    "vocab_size": WORDS,
    "hidden_size": 128,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 512,
}
BASE = {
    "seed": 20240618,
    "methods": {"oracle": {"rule": "oracle"}},
    "routers": {"always": {}},
    "policies": ["oracle+always"],
    "dump": {"nats_below_top": 3.0, "min_top_k": 8, "max_top_k": 64, "prompts_per_shard": 64},
    "compute": {"device": "cpu", "dtype": "float32", "batch_size": 64, "max_batch_tokens": 8192},
    "report": {"explorer_prompts": 8},
}


@contextlib.contextmanager
def on_arith(names: list[str], limit: int, **changes) -> Iterator[Settings]:
    """A project of embedded models (`base-451k` is called that in params too) on `limit` problems."""
    entries = {name: {"path": f"data/embedded/{name}", "prompt_format": "plain"} for name in names}
    datasets = {"toy": {"task": "arith", "limit": limit, "max_new_tokens": 96, "calibration_share": 0.25}}
    with project({"datasets": datasets, "models": entries, **changes}):
        Path("data/embedded").symlink_to(ROOT / "data/embedded")
        loaded = load_settings()
        prompts.write_prompts(loaded, "toy")
        yield described(loaded)


@contextlib.contextmanager
def on_random(
    shapes: dict[str, dict],
    prompts: list[int],
    new_tokens: int,
    dtype: str = "float32",
    words: int = WORDS,
    **changes,
) -> Iterator[Settings]:
    """A project of random Qwen2 models of these shapes; `prompts` holds the prompts' lengths in tokens."""
    entries = {
        name: {"path": f"checkpoints/{name}", "prompt_format": "plain", "dtype": dtype} for name in shapes
    }
    datasets = {"toy": {"task": "arith", "max_new_tokens": new_tokens}}
    with project({"datasets": datasets, "models": entries, **changes}):
        tokenizer = byte_tokenizer(words)
        for seed, (name, shape) in enumerate(shapes.items()):
            make_qwen(Path("checkpoints") / name, tokenizer, seed, dtype, **shape)
        _write_random_prompts(prompts)
        yield described(load_settings())


@contextlib.contextmanager
def project(changes: dict) -> Iterator[None]:
    """A temporary folder with its params file, as the current one; what stages say is not shown."""
    with tempfile.TemporaryDirectory() as home, contextlib.chdir(home), open(os.devnull, "w") as nowhere:
        Path("data").mkdir()
        pairs = changes.pop("pairs", {})
        whole = {
            name: {"small": small, "tuned": small, "large": large} for name, (small, large) in pairs.items()
        }
        Path("params.yaml").write_text(yaml.safe_dump(BASE | {"pairs": whole} | changes))
        with contextlib.redirect_stdout(nowhere), contextlib.redirect_stderr(nowhere):
            yield


def described(loaded: Settings) -> Settings:
    for name in loaded.models:
        description.write_description(loaded, name)
    return loaded


@functools.cache
def byte_tokenizer(words: int) -> PreTrainedTokenizerFast:
    """A byte-level tokenizer without merges, filled up to so many ids with words that prompts never hold.

    Byte-level and with that end token, since transformers reads the tokenizer of any `qwen2` folder so.
    """
    letters = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    entries = [*letters, *(f"w{i}" for i in range(words - len(letters) - 1)), "<|endoftext|>"]
    ids = {word: i for i, word in enumerate(entries)}
    core = tokenizers.Tokenizer(tokenizers.models.BPE(vocab=ids, merges=[]))
    core.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = tokenizers.decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=core, eos_token="<|endoftext|>")


def make_qwen(folder: Path, tokenizer, seed: int, dtype: str, sharpness: float = 1.0, **shape) -> None:
    """A random Qwen2; `sharpness` scales its logits.

    Embeddings are tied only where the shape says so: a random model with tied ones repeats its input.
    """
    reported = {
        "tie_word_embeddings": False,
        "initializer_range": 0.05,
        "max_position_embeddings": 4096,
    } | shape
    config = Qwen2Config(eos_token_id=tokenizer.eos_token_id, bos_token_id=None, **reported)
    torch.manual_seed(seed)
    network = Qwen2ForCausalLM(config)
    network.model.norm.weight.data *= sharpness
    network.to(getattr(torch, dtype)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _write_random_prompts(lengths: list[int]) -> None:
    """A prompts table of random letters, a token each."""
    chance = np.random.default_rng(3)
    texts = ["".join(chance.choice([*string.ascii_letters], length)) for length in lengths]
    rows = [
        {
            "prompt_id": f"toy-{i:03d}",
            "order": i,
            "split": "test" if i else "calibration",
            "messages": [{"role": "user", "content": text}],
            "plain": text,
            "follow_ups": [],
            "stops": [],
            "stop_tokens": [],
            "answer": None,
            "gold": json.dumps({"answer": "#### 1", "question": text}),
        }
        for i, text in enumerate(texts)
    ]
    frame = pl.DataFrame(rows, schema=pl.Schema(prompts.PROMPTS))
    parquet.write(Path("data/prompts/toy.parquet"), frame, prompts.PROMPTS)


@contextlib.contextmanager
def in_memory(loaded: Settings, *names: str) -> Iterator[dict[str, loaded_model.LoadedModel]]:
    """The models (all, or those named), loaded once; stages get these, so that no loading is timed."""
    held = {name: loading.load_model(loaded, name) for name in names or loaded.models}
    with (
        mock.patch.object(loading, "load_weights", lambda _, model: held[model.name]),
        mock.patch.object(loading, "_check_pieces"),  # each has been tested when it was loaded
    ):
        yield held


def forget(*outputs: str) -> None:
    """Remove finished shards and these outputs, so that a stage does its work again."""
    for path in ("scratch", *outputs):
        shutil.rmtree(path, ignore_errors=True)


def read_texts(model: str, held: loaded_model.LoadedModel) -> list[tuple[list[int], list[int]]]:
    """Prompt and written ids of every text of a model, by prompt."""
    prompts = parquet.read("data/prompts/toy.parquet").sort("prompt_id")
    encoded = tokenization.encode(held.name, held.prompt_format, held.tokenizer, prompts)
    rows = parquet.read(f"data/dumps/{model}/toy/tokens-*.parquet").sort("prompt_id", "pos")
    written = rows.group_by("prompt_id", maintain_order=True).agg("token_id")["token_id"].to_list()
    return list(zip(encoded, written, strict=True))
