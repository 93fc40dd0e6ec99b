"""What is known of a model without its weights: enough to tokenize prompts and to end texts."""

import sys
from dataclasses import dataclass, replace
from pathlib import Path

import polars as pl

from fsgen.config.schema import ModelConfig, Settings
from fsgen.errors import UserError
from fsgen.models import checkpoints, description, tokenization


@dataclass(frozen=True)
class ModelSpec:
    """A model without its network; may be sent to another machine."""

    name: str
    source: ModelConfig
    """Its entry in params.yaml, where a local folder's path is absolute."""
    tokenizer: object
    prompt_format: str
    vocabulary: int
    """Ids of the tokenizer; a larger output matrix is padding and is cut off."""
    stop_ids: tuple[int, ...]
    context: int
    parameters: int


def model_spec(settings: Settings, name: str) -> ModelSpec:
    """Spec of the model `name` of params.yaml; UserError if it is not described or not supported."""
    model = settings.model(name)
    about = description.read_description(name)
    window = _window(name, checkpoints.folder(name, model, weights=False))
    return ModelSpec(
        name=name,
        source=_with_absolute_path(name, model),
        tokenizer=tokenization.load_tokenizer(name, model),
        prompt_format=model.prompt_format,
        vocabulary=about["vocabulary"],
        stop_ids=tuple(about["stop_ids"]),
        context=min(about["shape"]["context"], window),
        parameters=about["parameters"]["total"],
    )


def prompt_ids(model: ModelSpec, prompts: pl.DataFrame, max_new_tokens: int) -> list[list[int]]:
    """Prompt ids of every row of a prompts table; UserError if prompt and text exceed the context.

    `max_new_tokens` are those of a turn.
    """
    ids = tokenization.encode(model.name, model.prompt_format, model.tokenizer, prompts)
    for prompt_id, tokens in zip(prompts["prompt_id"], ids, strict=True):
        if not tokens:
            raise UserError(
                f"Prompt '{prompt_id}' has no token for {model.name}, whose first one needs some before it; "
                "ask something, or use a prompt form that has a template."
            )
    _check_context(model, prompts, ids, max_new_tokens)
    return ids


def _check_context(
    model: ModelSpec, prompts: pl.DataFrame, ids: list[list[int]], max_new_tokens: int
) -> None:
    """UserError if the longest prompt, with all questions, and as many new tokens exceed the context."""
    lengths = dict(zip(prompts["prompt_id"], map(len, ids), strict=True))
    separators = tokenization.turn_separators(model.name, model.prompt_format, model.tokenizer, prompts)
    for prompt_id, texts in separators.items():
        lengths[prompt_id] += len(model.tokenizer("".join(texts), add_special_tokens=False)["input_ids"])
    longest, turns = max(lengths.values()), 1 + max(map(len, separators.values()), default=0)
    if longest + turns * max_new_tokens > model.context:
        raise UserError(
            f"{model.name} has a context of {model.context} tokens, but a prompt of {longest} tokens and "
            f"{turns * max_new_tokens} new ones need more; lower shots or max_new_tokens."
        )


def _with_absolute_path(name: str, model: ModelConfig) -> ModelConfig:
    """The entry with a path that does not depend on the current folder."""
    if model.hub is not None:
        return model
    return replace(model, embedded=None, path=str(checkpoints.folder(name, model).absolute()))


def _window(name: str, home: Path) -> int:
    """Tokens that every layer attends to; in longer texts some layers would need masks of their own."""
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
