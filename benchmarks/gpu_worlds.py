"""Random models in memory, and projects whose stages use them in place of checkpoints."""

import contextlib
import json
import math
import string
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple
from unittest import mock

import numpy as np
import one_thread  # noqa: F401 - before torch
import polars as pl
import torch
import worlds
import yaml
from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

from fsgen.config.load import load_settings
from fsgen.config.schema import ComputeConfig, Settings
from fsgen.models import loading
from fsgen.models.loaded_model import LoadedModel
from fsgen.models.spec import ModelSpec, model_spec
from fsgen.tables import parquet, paths
from fsgen.tables.schemas.tasks import PROMPTS

BUDGETS = (2, 5, 10, 15, 20, 30, 40, 60)
PAIR = "qwen-0_5b-7b"
FAMILY_PAIR = {"small": "base-87k", "tuned": "tuned-87k", "large": "base-451k"}
FAMILY_POLICIES = [
    "oracle+always",
    *(f"oracle+entropy@{budget}" for budget in (5, 20, 40)),
    "oracle+random@20",
    "proxy+entropy@20",
    "contrastive+entropy@20",
    "average+margin@20",
]
FAMILY_METHODS = {
    "oracle": {"rule": "oracle"},
    "proxy": {"rule": "proxy"},
    "contrastive": {"rule": "li2022"},
    "average": {"rule": "average"},
}
REPORT = {"report": {"explorer_prompts": 3}}
LOGIT_SPREAD = 4.5  # standard deviation of the logits: entropies of some nats, as of a language model


class Scale(NamedTuple):
    """The sizes of everything that is measured."""

    shapes: dict[str, dict]
    """Model to keys of Qwen2Config."""
    words: int
    """Ids of the tokenizer."""
    dtype: torch.dtype
    rows: tuple[int, int]
    """Texts side by side of the two writing cases."""
    new_tokens: int
    prompt_tokens: tuple[int, int]
    """Shortest and longest prompt that is written after or read."""
    rollout_prompts: int
    rollout_rows: int
    read_texts: int
    read_new_tokens: int
    stop_every: int
    """In the case of uneven texts every such id ends a text."""
    copied_bytes: int
    product_width: int
    family_limit: int
    repetitions: int


def _qwen(hidden: int, layers: int, heads: int, kv_heads: int, intermediate: int, vocabulary: int) -> dict:
    """Keys of Qwen2Config.

    Embeddings are not tied, since a random model with tied ones repeats its input. A step reads the head
    and the body, as with tied embeddings.
    """
    return {
        "vocab_size": vocabulary,
        "hidden_size": hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "intermediate_size": intermediate,
        "tie_word_embeddings": False,
        "max_position_embeddings": 4096,
    }


FULL = Scale(
    shapes={
        "qwen-0_5b": _qwen(896, 24, 14, 2, 4864, 151_936),
        "qwen-1_5b": _qwen(1536, 28, 12, 2, 8960, 151_936),
        "qwen-7b": _qwen(3584, 28, 28, 4, 18_944, 151_936),
    },
    words=worlds.WORDS,
    dtype=torch.bfloat16,
    rows=(64, 256),
    new_tokens=96,
    prompt_tokens=(16, 128),
    rollout_prompts=40,
    rollout_rows=256,
    read_texts=64,
    read_new_tokens=256,
    stop_every=100,
    copied_bytes=1 << 32,
    product_width=8192,
    family_limit=24,
    repetitions=3,
)
MINIATURE = Scale(
    shapes={
        "qwen-0_5b": _qwen(32, 2, 4, 2, 64, 320),
        "qwen-1_5b": _qwen(32, 3, 4, 2, 64, 320),
        "qwen-7b": _qwen(48, 3, 4, 2, 96, 320),
    },
    words=300,
    dtype=torch.float32,
    rows=(4, 8),
    new_tokens=12,
    prompt_tokens=(3, 9),
    rollout_prompts=8,
    rollout_rows=16,
    read_texts=4,
    read_new_tokens=8,
    stop_every=20,
    copied_bytes=1 << 20,
    product_width=64,
    family_limit=6,
    repetitions=1,
)


@contextlib.contextmanager
def on_random_models(scale: Scale, device: str) -> Iterator[tuple[Settings, dict[str, LoadedModel]]]:
    """A project of random models, which its stages find in memory; none has a checkpoint's weights."""
    names = {name: {"path": f"checkpoints/{name}", "prompt_format": "plain"} for name in scale.shapes}
    params = {
        "datasets": {"toy": _dataset(scale.rollout_prompts, scale.new_tokens)},
        "models": names,
        "pairs": {PAIR: {"small": "qwen-0_5b", "tuned": "qwen-0_5b", "large": "qwen-7b"}},
        "routers": {"entropy": {}},
        "policies": [f"oracle+entropy@{budget}" for budget in BUDGETS],
        "compute": _compute(device, str(scale.dtype).removeprefix("torch."), scale.rollout_rows),
    }
    with worlds.project({}):
        Path("params.yaml").write_text(yaml.safe_dump(worlds.BASE | REPORT | params))
        tokenizer = worlds.byte_tokenizer(scale.words)
        networks = {name: _network(scale, name, tokenizer, device) for name in scale.shapes}
        for name, network in networks.items():
            _describe(name, network, tokenizer, scale.words)
        _write_prompts(scale.rollout_prompts)
        settings = load_settings()
        loaded = {
            name: LoadedModel(
                **vars(model_spec(settings, name)), network=network, device=torch.device(device)
            )
            for name, network in networks.items()
        }
        with _in_memory(loaded):
            yield settings, loaded


@contextlib.contextmanager
def _in_memory(loaded: dict[str, LoadedModel]) -> Iterator[None]:
    """Stages get these models, and load those of other names."""
    load = loading.load_weights

    def get_or_load(compute: ComputeConfig, model: ModelSpec) -> LoadedModel:
        return loaded[model.name] if model.name in loaded else load(compute, model)

    with mock.patch.object(loading, "load_weights", get_or_load):
        yield


@contextlib.contextmanager
def on_family(limit: int, device: str) -> Iterator[Settings]:
    """A project of three embedded models in float32 on `limit` problems."""
    params = {
        "datasets": {"toy": _dataset(limit, 96)},
        "models": {
            name: {"path": f"data/embedded/{name}", "prompt_format": "plain"} for name in FAMILY_PAIR.values()
        },
        "pairs": {"duo": FAMILY_PAIR},
        "methods": FAMILY_METHODS,
        "routers": {name: {} for name in ("always", "entropy", "margin", "random")},
        "policies": FAMILY_POLICIES,
        "compute": _compute(device, "float32", 64),
    }
    with worlds.project({}):
        Path("params.yaml").write_text(yaml.safe_dump(worlds.BASE | REPORT | params))
        Path("data/embedded").symlink_to(worlds.ROOT / "data/embedded")
        settings = load_settings()
        worlds.prompts.write_prompts(settings, "toy")
        yield worlds.described(settings)


def _dataset(prompts: int, new_tokens: int) -> dict:
    return {"task": "arith", "limit": prompts, "max_new_tokens": new_tokens, "calibration_share": 0.25}


def _compute(device: str, dtype: str, rows: int) -> dict:
    return {"device": device, "dtype": dtype, "batch_size": rows, "max_batch_tokens": 8192}


def _network(scale: Scale, name: str, tokenizer: PreTrainedTokenizerFast, device: str) -> Qwen2ForCausalLM:
    """A random network, made where it runs."""
    config = Qwen2Config(eos_token_id=tokenizer.eos_token_id, bos_token_id=None, **scale.shapes[name])
    torch.manual_seed(sorted(scale.shapes).index(name))
    before = torch.get_default_dtype()
    torch.set_default_dtype(scale.dtype)
    try:
        with torch.device(device):
            network = Qwen2ForCausalLM(config)
    finally:
        torch.set_default_dtype(before)
    spread = config.initializer_range * math.sqrt(config.hidden_size)
    network.model.norm.weight.data *= LOGIT_SPREAD / spread
    network.lm_head.weight.data[scale.words :] = 0  # rows without a token, which `generate` does not cut off
    return network.eval().requires_grad_(False)


def _describe(
    name: str, network: Qwen2ForCausalLM, tokenizer: PreTrainedTokenizerFast, vocabulary: int
) -> None:
    """Write what stages read of a model that is in memory: config, tokenizer and description."""
    home = Path("checkpoints") / name
    network.config.save_pretrained(home)
    tokenizer.save_pretrained(home)
    shape = network.config
    total = sum(weights.numel() for weights in network.parameters())
    head = shape.vocab_size * shape.hidden_size
    about = {
        "model": name,
        "prompt_format": "plain",
        "files": {},
        "tokenizer": "random",
        "vocabulary": vocabulary,
        "stop_ids": [tokenizer.eos_token_id],
        "parameters": {"non_embedding": total - 2 * head, "head": head, "total": total},
        "shape": {
            "layers": shape.num_hidden_layers,
            "width": shape.hidden_size,
            "context": shape.max_position_embeddings,
        },
    }
    path = paths.model_description(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(about))


def _write_prompts(count: int) -> None:
    """A prompts table of random letters, a token each; a quarter is for calibration."""
    chance = np.random.default_rng(3)
    texts = ["".join(chance.choice([*string.ascii_letters], chance.integers(8, 73))) for _ in range(count)]
    rows = [
        {
            "prompt_id": f"toy-{i:03d}",
            "order": i,
            "split": "test" if i % 4 else "calibration",
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
    parquet.write(paths.prompts("toy"), pl.DataFrame(rows, schema=pl.Schema(PROMPTS)), PROMPTS)


def ragged_prompts(scale: Scale, count: int) -> dict[str, list[int]]:
    """Prompts of random ids and lengths."""
    chance = np.random.default_rng(5)
    shortest, longest = scale.prompt_tokens
    lengths = chance.integers(shortest, longest + 1, count)
    return {f"p{i:04d}": chance.integers(0, 200, n).tolist() for i, n in enumerate(lengths)}
