"""Outlines: what is known of a model before its weights are, enough to spell prompts and to end texts."""

import sys
from dataclasses import dataclass, replace
from pathlib import Path

import polars as pl

from fsgen.config.schema import ModelConfig, Settings
from fsgen.errors import UserError
from fsgen.models import checkpoints, description, tokenization


@dataclass(frozen=True)
class ModelSpec:
    """A model as the loops know it, without its network; may be sent to another machine."""

    name: str
    source: ModelConfig
    """Its entry in params.yaml, where a local folder's path is absolute."""
    tokenizer: object
    prompt: str
    vocabulary: int
    """Ids of the tokenizer; a larger output matrix is padding and is cut off."""
    stop_ids: tuple[int, ...]
    context: int
    parameters: int


def model_spec(settings: Settings, name: str) -> ModelSpec:
    """Outline of the model `name` of params.yaml; Complaint where it is not described or not supported."""
    model = settings.model(name)
    about = description.read_description(name)
    window = _window(name, checkpoints.folder(name, model, weights=False))
    return ModelSpec(
        name=name,
        source=_anywhere(name, model),
        tokenizer=tokenization.load_tokenizer(name, model),
        prompt=model.prompt,
        vocabulary=about["vocabulary"],
        stop_ids=tuple(about["stop_ids"]),
        context=min(about["shape"]["context"], window),
        parameters=about["parameters"]["total"],
    )


def prompt_ids(model: ModelSpec, prompts: pl.DataFrame, max_new_tokens: int) -> list[list[int]]:
    """Prompt ids of every row of a prompts table; Complaint if prompt and text exceed the context.

    `max_new_tokens` are those of a turn.
    """
    ids = tokenization.encode(model.name, model.prompt, model.tokenizer, prompts)
    given = {name: list(own) for name, own in zip(prompts["prompt_id"], ids, strict=True)}
    if empty := [name for name, own in given.items() if not own]:
        raise UserError(
            f"Prompt '{empty[0]}' has no token for {model.name}, whose first one needs some before it; "
            "ask something, or use a prompt form that has a template."
        )
    turns = 1
    for name, between in tokenization.turn_separators(
        model.name, model.prompt, model.tokenizer, prompts
    ).items():
        given[name] += model.tokenizer("".join(between), add_special_tokens=False)["input_ids"]
        turns = max(turns, len(between) + 1)
    longest = max(map(len, given.values()))
    if longest + turns * max_new_tokens > model.context:
        raise UserError(
            f"{model.name} has a context of {model.context} tokens, but a prompt of {longest} tokens and "
            f"{turns * max_new_tokens} new ones need more; lower shots or max_new_tokens."
        )
    return ids


def _anywhere(name: str, model: ModelConfig) -> ModelConfig:
    """The entry with no path that depends on the folder that a process runs in."""
    if model.hub is not None:
        return model
    return replace(model, family=None, path=str(checkpoints.folder(name, model).absolute()))


def _window(name: str, home: Path) -> int:
    """Tokens that every layer sees at once; longer texts would need a mask of their own for some layers."""
    from transformers import AutoConfig  # seconds to import

    config = AutoConfig.from_pretrained(home).get_text_config(decoder=True)
    kinds = set(getattr(config, "layer_types", None) or ["full_attention"])
    if kinds - {"full_attention", "sliding_attention"}:
        raise UserError(
            f"{name} has layers of {', '.join(sorted(kinds))}; only full and sliding attention is supported."
        )
    window = getattr(config, "sliding_window", None) if kinds != {"full_attention"} else None
    if not hasattr(config, "layer_types") and getattr(config, "use_sliding_window", True):
        window = getattr(config, "sliding_window", None)
    return window or sys.maxsize
