"""Tokenizers: prompt ids, chat templates, stop ids, and whether a pair shares one vocabulary."""

import hashlib
import json

import polars as pl

from fsgen.config.schema import ModelConfig, Settings
from fsgen.errors import UserError
from fsgen.models.checkpoints import folder

PROBE = [
    {"role": "system", "content": "Be exact."},
    {"role": "user", "content": "One?"},
    {"role": "assistant", "content": "1"},
    {"role": "user", "content": "Two?"},
]
ANSWER = "Fine."  # stands for what is written in a turn


def load_tokenizer(name: str, model: ModelConfig):
    """The checkpoint's own tokenizer; remote code is never run."""
    from transformers import AutoTokenizer  # seconds to import, and most stages need none

    try:
        return AutoTokenizer.from_pretrained(home := folder(name, model, weights=False))
    except (OSError, ValueError) as error:
        raise UserError(
            f"models.{name} has no readable tokenizer in {home}; complete the checkpoint."
        ) from error


def stop_ids(name: str, model: ModelConfig, tokenizer) -> list[int]:
    """Ids that end a text: those in `models.<name>.stop_tokens`, else all that the checkpoint names."""
    if model.stop_tokens is not None:
        ids = [tokenizer.get_vocab().get(token) for token in model.stop_tokens]
        if None in ids or not ids:
            raise UserError(f"models.{name}.stop_tokens {model.stop_tokens} are not all in its vocabulary.")
        return sorted(ids)
    named = {tokenizer.eos_token_id}
    for file in ("generation_config.json", "config.json"):
        path = folder(name, model, weights=False) / file
        value = json.loads(path.read_text()).get("eos_token_id") if path.is_file() else None
        named |= set(value if isinstance(value, list) else [value])
    ids = sorted(named - {None})
    if not ids:
        raise UserError(f"models.{name} names no end-of-text token; set models.{name}.stop_tokens.")
    return ids


def check_pair(settings: Settings, pair: str, described: dict[str, dict]) -> None:
    """Complaint unless the pair's models share tokenizer and stop tokens.

    `described` maps role to what `describe` returned; only "tokenizer" and "stop_ids" are looked at.
    """
    members = settings.pairs[pair].roles()
    for role, about in described.items():
        for key, remedy in (
            ("tokenizer", "logits of different vocabularies cannot be fused; pair models of one family"),
            ("stop_ids", "set the same 'stop_tokens' for both models"),
        ):
            if about[key] != described["large"][key]:
                raise UserError(
                    f"pairs.{pair}: '{members[role]}' and '{members['large']}' should have the same "
                    f"{key.replace('_ids', ' tokens')}, but they differ; {remedy}."
                )


def check_tokenizers(settings: Settings, pair: str) -> None:
    """Complaint if the pair cannot be fused; opens tokenizers alone, so that it may come before all work."""
    described = {}
    for role, name in settings.pairs[pair].roles().items():
        model = settings.models[name]
        tokenizer = load_tokenizer(name, model)
        described[role] = {
            "tokenizer": _tokenizer_digest(name, tokenizer, model.prompt),
            "stop_ids": stop_ids(name, model, tokenizer),
        }
    check_pair(settings, pair, described)


def encode(name: str, mode: str, tokenizer, prompts: pl.DataFrame) -> list[list[int]]:
    """Prompt ids of every row of a prompts table, as `prompt: plain | chat` says."""
    if mode == "plain":
        return tokenizer(prompts["plain"].to_list())["input_ids"]
    return [_render(name, tokenizer, messages) for messages in prompts["messages"].to_list()]


def turn_separators(name: str, mode: str, tokenizer, prompts: pl.DataFrame) -> dict[str, list[str]]:
    """Prompt to the text between each of its answers and the next, for prompts with several turns.

    Complaint where a chat template spells an answered conversation otherwise than the open one goes
    on, since a conversation is one sequence of tokens.
    """
    asked = prompts.filter(pl.col("follow_ups").list.len() > 0)
    found = {}
    for row in asked.iter_rows(named=True):
        found[row["prompt_id"]] = between = []
        messages = row["messages"]
        for follow_up in row["follow_ups"]:
            if mode == "plain":
                between.append(follow_up["plain"])
                continue
            answered = [*messages, {"role": "assistant", "content": ANSWER}]
            longer = [*answered, {"role": "user", "content": follow_up["message"]}]
            between.append(_turn_separator(name, tokenizer, messages, longer))
            messages = longer
    return found


def _turn_separator(name: str, tokenizer, messages: list[dict], longer: list[dict]) -> str:
    opened = _render(name, tokenizer, messages, tokenize=False) + ANSWER
    whole = _render(name, tokenizer, longer, tokenize=False)
    bridge = whole.removeprefix(opened)

    def spell(text: str) -> list[int]:
        return tokenizer(text, add_special_tokens=False)["input_ids"]

    if bridge == whole or spell(opened) + spell(bridge) != spell(whole):
        raise UserError(
            f"models.{name}: its chat template should spell a second turn by going on after the first, "
            "got another beginning; set 'prompt: plain'."
        )
    return bridge


def _render(name: str, tokenizer, messages: list[dict], **how) -> str | list[int]:
    """A conversation as the chat template spells it."""
    from jinja2 import TemplateError

    if tokenizer.chat_template is None:
        raise UserError(f"models.{name}: its tokenizer has no chat template; set 'prompt: plain'.")
    try:
        return tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False, **how)
    except TemplateError as error:
        raise UserError(
            f"models.{name}: its chat template refuses a system turn followed by questions and answers "
            f"({error}); set 'prompt: plain'."
        ) from error


def _tokenizer_digest(name: str, tokenizer, mode: str) -> str:
    """Digest of ids and merges and, for chat prompts, of a probe conversation's rendering.

    Templates of one family may differ where a prompt never goes (tools), so the text of the
    template is not compared; the ids of the real prompts are, before a text is read.
    """
    probe = _render(name, tokenizer, PROBE, tokenize=False) if mode == "chat" else None
    spelling = json.loads(tokenizer.backend_tokenizer.to_str())
    del spelling["padding"], spelling["truncation"]  # how a batch is cut, not how a text is spelt
    return hashlib.sha256(json.dumps([spelling, probe], sort_keys=True).encode()).hexdigest()
