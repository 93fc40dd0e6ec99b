"""Tokenizers: prompt ids, chat templates, stop ids, and whether a pair's models share a vocabulary."""

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
    """Ids that end a text: those of `models.<name>.stop_tokens`, or all that the checkpoint names."""
    if model.stop_tokens is not None:
        ids = [tokenizer.get_vocab().get(token) for token in model.stop_tokens]
        if None in ids or not ids:
            raise UserError(f"models.{name}.stop_tokens {model.stop_tokens} are not all in its vocabulary.")
        return sorted(ids)
    home, end_ids = folder(name, model, weights=False), {tokenizer.eos_token_id}
    for path in (home / "generation_config.json", home / "config.json"):
        value = json.loads(path.read_text()).get("eos_token_id") if path.is_file() else None
        end_ids |= set(value if isinstance(value, list) else [value])
    ids = sorted(end_ids - {None})
    if not ids:
        raise UserError(f"models.{name} names no end-of-text token; set models.{name}.stop_tokens.")
    return ids


def check_pair(pair: str, members: dict[str, str], described: dict[str, dict]) -> None:
    """UserError unless the pair's models share tokenizer and stop tokens.

    `members` maps role to model, and `described` role to what `describe` returns, of which "tokenizer" and
    "stop_ids" are needed.
    """
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
    """UserError if the pair cannot be fused; opens only tokenizers, so that it can run before all work."""
    members, described = settings.pairs[pair].roles(), {}
    for role, name in members.items():
        model = settings.models[name]
        tokenizer = load_tokenizer(name, model)
        described[role] = {
            "tokenizer": tokenizer_digest(name, tokenizer, model.prompt_format),
            "stop_ids": stop_ids(name, model, tokenizer),
        }
    check_pair(pair, members, described)


def encode(name: str, mode: str, tokenizer, prompts: pl.DataFrame) -> list[list[int]]:
    """Prompt ids of every row of a prompts table; `mode` is plain or chat."""
    if mode == "plain":
        return tokenizer(prompts["plain"].to_list())["input_ids"]
    return [_render(name, tokenizer, messages) for messages in prompts["messages"].to_list()]


def turn_separators(name: str, mode: str, tokenizer, prompts: pl.DataFrame) -> dict[str, list[str]]:
    """Prompt id to the text between each of its answers and the next, for prompts with several turns.

    A conversation is one sequence of tokens, so a longer one has to continue the shorter one: UserError if a
    chat template renders it in another way.
    """
    conversations = prompts.filter(pl.col("follow_ups").list.len() > 0)
    separators = {}
    for row in conversations.iter_rows(named=True):
        if mode == "plain":
            separators[row["prompt_id"]] = [follow_up["plain"] for follow_up in row["follow_ups"]]
        else:
            questions = [follow_up["message"] for follow_up in row["follow_ups"]]
            separators[row["prompt_id"]] = _chat_separators(name, tokenizer, row["messages"], questions)
    return separators


def _chat_separators(name: str, tokenizer, messages: list[dict], questions: list[str]) -> list[str]:
    """What a chat template renders between an answer and each next question's answer."""
    separators = []
    for question in questions:
        answered = [*messages, {"role": "assistant", "content": ANSWER}]
        longer = [*answered, {"role": "user", "content": question}]
        separators.append(_turn_separator(name, tokenizer, messages, longer))
        messages = longer
    return separators


def _turn_separator(name: str, tokenizer, messages: list[dict], longer: list[dict]) -> str:
    """What follows the answer to `messages` in the rendering of `longer`."""
    answered = _render(name, tokenizer, messages, tokenize=False) + ANSWER
    whole = _render(name, tokenizer, longer, tokenize=False)
    separator = whole.removeprefix(answered)

    def ids(text: str) -> list[int]:
        return tokenizer(text, add_special_tokens=False)["input_ids"]

    if separator == whole or ids(answered) + ids(separator) != ids(whole):
        raise UserError(
            f"models.{name}: its chat template should spell a second turn by going on after the first, "
            "got another beginning; set 'prompt_format: plain'."
        )
    return separator


def _render(name: str, tokenizer, messages: list[dict], **how) -> str | list[int]:
    """A conversation as the chat template renders it."""
    from jinja2 import TemplateError

    if tokenizer.chat_template is None:
        raise UserError(f"models.{name}: its tokenizer has no chat template; set 'prompt_format: plain'.")
    try:
        return tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False, **how)
    except TemplateError as error:
        raise UserError(
            f"models.{name}: its chat template refuses a system turn followed by questions and answers "
            f"({error}); set 'prompt_format: plain'."
        ) from error


def tokenizer_digest(name: str, tokenizer, mode: str) -> str:
    """Digest of ids and merges and, for chat prompts, of a probe conversation's rendering.

    Templates of one family may differ in parts that no prompt uses (tools), so the template's text is not
    compared. The ids of the real prompts are compared before a text is read.
    """
    probe = _render(name, tokenizer, PROBE, tokenize=False) if mode == "chat" else None
    state = json.loads(tokenizer.backend_tokenizer.to_str())
    del state["padding"], state["truncation"]  # of a batch, not of a text
    return hashlib.sha256(json.dumps([state, probe], sort_keys=True).encode()).hexdigest()
