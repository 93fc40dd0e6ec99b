"""Where a model lies, what it is, and how it spells a prompt: everything short of running it."""

import hashlib
import json
import math
from pathlib import Path

import polars as pl

from fsgen import console
from fsgen.settings import Model, Settings
from fsgen.typed import Complaint

FAMILY = Path("data/family")
DESCRIPTIONS = Path("data/models")
SHAPE_KEYS = (
    "vocab_size",
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "max_position_embeddings",
)
PROBE = [
    {"role": "system", "content": "Be exact."},
    {"role": "user", "content": "One?"},
    {"role": "assistant", "content": "1"},
    {"role": "user", "content": "Two?"},
]
ANSWER = "Fine."  # stands for what is written in a turn


def folder(name: str, model: Model, weights: bool = True) -> Path:
    """Local folder of a checkpoint; a hub model is fetched at its pinned revision, weights only if asked."""
    if model.path is not None:
        return Path(model.path)
    if model.family is not None:
        return FAMILY / model.family
    from huggingface_hub import snapshot_download

    try:
        wanted = ["*.json", "*.txt", "*.model", "*.jinja", *(["*.safetensors"] if weights else [])]
        return Path(snapshot_download(model.hub, revision=model.revision, allow_patterns=wanted))
    except Exception as error:  # offline, gated, misspelt: the hub's client has no common base class
        raise Complaint(
            f"models.{name}: '{model.hub}' could not be fetched from the hub "
            f"({type(error).__name__}); go online, log in, or give a local 'path'."
        ) from error


def is_there(model: Model) -> bool:
    """False for a member of the embedded family that is still to be trained."""
    return model.family is None or (FAMILY / model.family).is_dir()


def load_tokenizer(name: str, model: Model):
    """The checkpoint's own tokenizer; remote code is never run."""
    from transformers import AutoTokenizer  # seconds to import, and most stages need none

    try:
        return AutoTokenizer.from_pretrained(home := folder(name, model, weights=False))
    except (OSError, ValueError) as error:
        raise Complaint(
            f"models.{name} has no readable tokenizer in {home}; complete the checkpoint."
        ) from error


def describe(name: str, model: Model) -> dict:
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
        raise Complaint(
            f"models.{name}: its config.json should name {missing[0]}, as plain decoders do, and does not; "
            "this architecture is not supported."
        )
    weights = _weight_files(name, home)
    counted = _count_parameters(weights, config)
    if model.parameters is not None and abs(counted["total"] - model.parameters) > 0.05 * counted["total"]:
        raise Complaint(
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


def count_parameters(name: str, model: Model) -> dict[str, int]:
    """Parameter counts of a checkpoint at hand, from the heads of its files alone; keys as in `describe`."""
    home = folder(name, model)
    return _count_parameters(_weight_files(name, home), json.loads((home / "config.json").read_text()))


def count_cached(name: str, model: Model) -> int:
    """Keys and values that one token leaves in the cache of a checkpoint at hand, from its config.json."""
    config = json.loads((folder(name, model) / "config.json").read_text())
    heads = config["num_attention_heads"]
    width = config.get("head_dim") or config["hidden_size"] // heads
    return 2 * config["num_hidden_layers"] * (config.get("num_key_value_heads") or heads) * width


def write_description(settings: Settings, name: str) -> None:
    """Write data/models/<name>.json, unless a pair of the model cannot be fused."""
    model = settings.named("models", name)
    for pair, entry in settings.pairs.items():
        if name in entry.members().values():
            check_tokenizers(settings, pair)
    path = DESCRIPTIONS / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    about = describe(name, model)
    path.write_text(json.dumps(about, indent=2, sort_keys=True) + "\n")
    sizes = about["parameters"]
    console.wrote(
        f"{path}: {sizes['total']:,} parameters, {sizes['non_embedding']:,} outside vocabulary matrices"
    )


def stop_ids(name: str, model: Model, tokenizer) -> list[int]:
    """Ids that end a text: those in `models.<name>.stop_tokens`, else all that the checkpoint names."""
    if model.stop_tokens is not None:
        ids = [tokenizer.get_vocab().get(token) for token in model.stop_tokens]
        if None in ids or not ids:
            raise Complaint(f"models.{name}.stop_tokens {model.stop_tokens} are not all in its vocabulary.")
        return sorted(ids)
    named = {tokenizer.eos_token_id}
    for file in ("generation_config.json", "config.json"):
        path = folder(name, model, weights=False) / file
        value = json.loads(path.read_text()).get("eos_token_id") if path.is_file() else None
        named |= set(value if isinstance(value, list) else [value])
    ids = sorted(named - {None})
    if not ids:
        raise Complaint(f"models.{name} names no end-of-text token; set models.{name}.stop_tokens.")
    return ids


def check_pair(settings: Settings, pair: str, described: dict[str, dict]) -> None:
    """Complaint unless the pair's models share tokenizer and stop tokens.

    `described` maps role to what `describe` returned; only "tokenizer" and "stop_ids" are looked at.
    """
    members = settings.pairs[pair].members()
    for role, about in described.items():
        for key, remedy in (
            ("tokenizer", "logits of different vocabularies cannot be fused; pair models of one family"),
            ("stop_ids", "set the same 'stop_tokens' for both models"),
        ):
            if about[key] != described["large"][key]:
                raise Complaint(
                    f"pairs.{pair}: '{members[role]}' and '{members['large']}' should have the same "
                    f"{key.replace('_ids', ' tokens')}, but they differ; {remedy}."
                )


def check_tokenizers(settings: Settings, pair: str) -> None:
    """Complaint if the pair cannot be fused; opens tokenizers alone, so that it may come before all work."""
    described = {}
    for role, name in settings.pairs[pair].members().items():
        model = settings.models[name]
        tokenizer = load_tokenizer(name, model)
        described[role] = {
            "tokenizer": _tokenizer_digest(name, tokenizer, model.prompt),
            "stop_ids": stop_ids(name, model, tokenizer),
        }
    check_pair(settings, pair, described)


def read_description(name: str) -> dict:
    """What the `model` stage wrote about a model."""
    path = DESCRIPTIONS / f"{name}.json"
    if not path.is_file():
        raise Complaint(f"There is no {path}; run 'dvc repro model@{name}'.")
    return json.loads(path.read_text())


def encode(name: str, mode: str, tokenizer, prompts: pl.DataFrame) -> list[list[int]]:
    """Prompt ids of every row of a prompts table, as `prompt: plain | chat` says."""
    if mode == "plain":
        return tokenizer(prompts["plain"].to_list())["input_ids"]
    return [_render(name, tokenizer, messages) for messages in prompts["messages"].to_list()]


def bridges(name: str, mode: str, tokenizer, prompts: pl.DataFrame) -> dict[str, list[str]]:
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
            between.append(_bridge(name, tokenizer, messages, longer))
            messages = longer
    return found


def _bridge(name: str, tokenizer, messages: list[dict], longer: list[dict]) -> str:
    opened = _render(name, tokenizer, messages, tokenize=False) + ANSWER
    whole = _render(name, tokenizer, longer, tokenize=False)
    bridge = whole.removeprefix(opened)

    def spell(text: str) -> list[int]:
        return tokenizer(text, add_special_tokens=False)["input_ids"]

    if bridge == whole or spell(opened) + spell(bridge) != spell(whole):
        raise Complaint(
            f"models.{name}: its chat template should spell a second turn by going on after the first, "
            "got another beginning; set 'prompt: plain'."
        )
    return bridge


def _weight_files(name: str, home: Path) -> list[Path]:
    """The files that loading reads: those of the index, or the single one; a folder may hold others."""
    index, single = home / "model.safetensors.index.json", home / "model.safetensors"
    if index.is_file():
        return [home / file for file in sorted(set(json.loads(index.read_text())["weight_map"].values()))]
    if not single.is_file():
        raise Complaint(f"models.{name}: {home} holds no safetensors weights; convert the checkpoint.")
    return [single]


def _render(name: str, tokenizer, messages: list[dict], **how) -> str | list[int]:
    """A conversation as the chat template spells it."""
    from jinja2 import TemplateError

    if tokenizer.chat_template is None:
        raise Complaint(f"models.{name}: its tokenizer has no chat template; set 'prompt: plain'.")
    try:
        return tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False, **how)
    except TemplateError as error:
        raise Complaint(
            f"models.{name}: its chat template refuses a system turn followed by questions and answers "
            f"({error}); set 'prompt: plain'."
        ) from error


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _tokenizer_digest(name: str, tokenizer, mode: str) -> str:
    """Digest of ids and merges and, for chat prompts, of a probe conversation's rendering.

    Templates of one family may differ where a prompt never goes (tools), so the text of the
    template is not compared; the ids of the real prompts are, before a text is read.
    """
    probe = _render(name, tokenizer, PROBE, tokenize=False) if mode == "chat" else None
    spelling = json.loads(tokenizer.backend_tokenizer.to_str())
    del spelling["padding"], spelling["truncation"]  # how a batch is cut, not how a text is spelt
    return hashlib.sha256(json.dumps([spelling, probe], sort_keys=True).encode()).hexdigest()


def _count_parameters(weights: list[Path], config: dict) -> dict[str, int]:
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


def _read_shape(config: dict) -> dict[str, int]:
    heads = config["num_attention_heads"]
    head_width = config.get("head_dim") or config["hidden_size"] // heads
    return {
        "layers": config["num_hidden_layers"],
        "width": heads * head_width,
        "context": config["max_position_embeddings"],
    }
