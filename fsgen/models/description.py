"""Model descriptions: what determines a model's output, kept in data/models/<name>.json."""

import json
from pathlib import Path

from fsgen.config.schema import ModelConfig, Settings
from fsgen.errors import UserError
from fsgen.execution import console
from fsgen.models.checkpoints import (
    SHAPE_KEYS,
    _count_parameters,
    _digest,
    _read_shape,
    _weight_files,
    folder,
)
from fsgen.models.tokenization import _tokenizer_digest, check_tokenizers, load_tokenizer, stop_ids

DESCRIPTIONS = Path("data/models")


def describe(name: str, model: ModelConfig) -> dict:
    """What determines a model's output, and its sizes.

    Returns file digests, the tokenizer's digest, usable vocabulary (ids of the tokenizer), stop
    ids, and parameter counts: `head` is the vocabulary matrix that makes logits (counted also
    where it is tied to the embedding), `non_embedding` everything but vocabulary matrices.
    """
    home = folder(name, model)
    tokenizer = load_tokenizer(name, model)
    config = json.loads((home / "config.json").read_text())
    missing = [key for key in SHAPE_KEYS if key not in config]
    if missing:
        raise UserError(
            f"models.{name}: its config.json should name {missing[0]}, as plain decoders do, and does not; "
            "this architecture is not supported."
        )
    weights = _weight_files(name, home)
    counted = _count_parameters(weights, config)
    if model.parameters is not None and abs(counted["total"] - model.parameters) > 0.05 * counted["total"]:
        raise UserError(
            f"models.{name}.parameters says {model.parameters:.4g}, but its checkpoint holds "
            f"{counted['total']:.4g}; correct it."
        )
    return {
        "model": name,
        "prompt": model.prompt,
        "files": {p.name: _digest(p) for p in [home / "config.json", *weights]},
        "tokenizer": _tokenizer_digest(name, tokenizer, model.prompt),
        "vocabulary": max(tokenizer.get_vocab().values()) + 1,
        "stop_ids": stop_ids(name, model, tokenizer),
        "parameters": counted,
        "shape": _read_shape(config),
    }


def write_description(settings: Settings, name: str) -> None:
    """Write data/models/<name>.json, unless a pair of the model cannot be fused."""
    model = settings.model(name)
    for pair, entry in settings.pairs.items():
        if name in entry.roles().values():
            check_tokenizers(settings, pair)
    path = DESCRIPTIONS / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    about = describe(name, model)
    path.write_text(json.dumps(about, indent=2, sort_keys=True) + "\n")
    sizes = about["parameters"]
    console.done(
        f"{path}: {sizes['total']:,} parameters, {sizes['non_embedding']:,} outside vocabulary matrices"
    )


def read_description(name: str) -> dict:
    """What the `model` stage wrote about a model."""
    path = DESCRIPTIONS / f"{name}.json"
    if not path.is_file():
        raise UserError(f"There is no {path}; run 'dvc repro model@{name}'.")
    return json.loads(path.read_text())
