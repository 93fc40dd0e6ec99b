"""Checkpoints on disk: their folder, and the sizes, shapes and digests that their files hold."""

import hashlib
import json
import math
from pathlib import Path

from fsgen.config.schema import ModelConfig
from fsgen.errors import UserError

EMBEDDED_FOLDER = Path("data/embedded")
SHAPE_KEYS = (
    "vocab_size",
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "max_position_embeddings",
)


def folder(name: str, model: ModelConfig, weights: bool = True) -> Path:
    """Local folder of a checkpoint; a hub model is fetched at its pinned revision, weights only if wanted."""
    if model.path is not None:
        return Path(model.path)
    if model.embedded is not None:
        return EMBEDDED_FOLDER / model.embedded
    from huggingface_hub import snapshot_download

    try:
        patterns = ["*.json", "*.txt", "*.model", "*.jinja", *(["*.safetensors"] if weights else [])]
        return Path(snapshot_download(model.hub, revision=model.revision, allow_patterns=patterns))
    except Exception as error:  # offline, gated, misspelled: the hub's errors have no common base class
        raise UserError(
            f"models.{name}: '{model.hub}' could not be fetched from the hub "
            f"({type(error).__name__}); go online, log in, or give a local 'path'."
        ) from error


def is_available(model: ModelConfig) -> bool:
    """False for a member of the embedded family that has not been trained yet."""
    return model.embedded is None or (EMBEDDED_FOLDER / model.embedded).is_dir()


def count_parameters(name: str, model: ModelConfig) -> dict[str, int]:
    """Parameter counts of a local checkpoint, from the headers of its files; keys as in `describe`."""
    home = folder(name, model)
    return sum_parameters(weight_files(name, home), json.loads((home / "config.json").read_text()))


def count_cached(name: str, model: ModelConfig) -> int:
    """Numbers that one token adds to the key-value cache of a local checkpoint, from its config.json."""
    config = json.loads((folder(name, model) / "config.json").read_text())
    heads = config["num_attention_heads"]
    width = config.get("head_dim") or config["hidden_size"] // heads
    return 2 * config["num_hidden_layers"] * (config.get("num_key_value_heads") or heads) * width


def weight_files(name: str, home: Path) -> list[Path]:
    """The files that loading reads: those of the index, or the single one; a folder may hold others."""
    index, single = home / "model.safetensors.index.json", home / "model.safetensors"
    if index.is_file():
        return [home / file for file in sorted(set(json.loads(index.read_text())["weight_map"].values()))]
    if not single.is_file():
        raise UserError(f"models.{name}: {home} holds no safetensors weights; convert the checkpoint.")
    return [single]


def file_digest(path: Path) -> str:
    """SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sum_parameters(weights: list[Path], config: dict) -> dict[str, int]:
    """Parameters of weight files: outside vocabulary matrices, of the head, and in total."""
    from safetensors import safe_open

    total = vocabulary = 0
    for path in weights:
        with safe_open(path, framework="numpy") as file:
            for key in file.keys():  # noqa: SIM118 - not a dict
                shape = file.get_slice(key).get_shape()
                total += math.prod(shape)
                vocabulary += math.prod(shape) if shape[:1] == [config["vocab_size"]] else 0
    head = config["vocab_size"] * config["hidden_size"]
    return {"non_embedding": total - vocabulary, "head": head, "total": total}


def read_shape(config: dict) -> dict[str, int]:
    """Layers, width of all attention heads, and context of a config.json."""
    heads = config["num_attention_heads"]
    head_width = config.get("head_dim") or config["hidden_size"] // heads
    return {
        "layers": config["num_hidden_layers"],
        "width": heads * head_width,
        "context": config["max_position_embeddings"],
    }
