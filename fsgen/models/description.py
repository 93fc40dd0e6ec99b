"""Model descriptions: what determines a model's output, kept in data/models/<name>.json."""

import json

from fsgen.config.schema import ModelConfig, Settings
from fsgen.errors import UserError
from fsgen.execution import console
from fsgen.models import checkpoints
from fsgen.models.tokenization import check_tokenizers, load_tokenizer, stop_ids, tokenizer_digest
from fsgen.tables import files, paths


def describe(name: str, model: ModelConfig) -> dict:
    """What determines a model's output, and its sizes.

    Returns file digests, the tokenizer's digest, the usable vocabulary (ids of the tokenizer), stop ids, and
    parameter counts: `head` is the vocabulary matrix that makes logits (counted also if it is tied to the
    embedding), `non_embedding` everything but vocabulary matrices.
    """
    home = checkpoints.folder(name, model)
    tokenizer = load_tokenizer(name, model)
    config = json.loads((home / "config.json").read_text())
    missing = [key for key in checkpoints.SHAPE_KEYS if key not in config]
    if missing:
        raise UserError(
            f"models.{name}: its config.json should name {missing[0]}, as plain decoders do, and does not; "
            "this architecture is not supported."
        )
    weights = checkpoints.weight_files(name, home)
    counts = checkpoints.sum_parameters(weights, config)
    if (
        model.parameter_count is not None
        and abs(counts["total"] - model.parameter_count) > 0.05 * counts["total"]
    ):
        raise UserError(
            f"models.{name}.parameter_count says {model.parameter_count:.4g}, but its checkpoint holds "
            f"{counts['total']:.4g}; correct it."
        )
    return {
        "model": name,
        "prompt_format": model.prompt_format,
        "files": {path.name: checkpoints.file_digest(path) for path in [home / "config.json", *weights]},
        "tokenizer": tokenizer_digest(name, tokenizer, model.prompt_format),
        "vocabulary": max(tokenizer.get_vocab().values()) + 1,
        "stop_ids": stop_ids(name, model, tokenizer),
        "parameters": counts,
        "shape": checkpoints.read_shape(config),
    }


def write_description(settings: Settings, name: str) -> None:
    """Write data/models/<name>.json, unless a pair of the model cannot be fused."""
    model = settings.model(name)
    for pair, entry in settings.pairs.items():
        if name in entry.roles().values():
            check_tokenizers(settings, pair)
    path, about = paths.model_description(name), describe(name, model)
    files.write_whole(path, json.dumps(about, indent=2, sort_keys=True) + "\n")
    sizes = about["parameters"]
    console.done(
        f"{path}: {sizes['total']:,} parameters, {sizes['non_embedding']:,} outside vocabulary matrices"
    )


def read_description(name: str) -> dict:
    """What the `model` stage wrote about a model."""
    path = paths.model_description(name)
    if not path.is_file():
        raise UserError(f"There is no {path}; run 'dvc repro model@{name}'.")
    return json.loads(path.read_text())
