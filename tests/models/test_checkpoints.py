"""What a checkpoint is said to be, how it spells a prompt, and which pairs are refused for it."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from transformers import AutoTokenizer

from fsgen.config.schema import ModelConfig
from fsgen.decoding import dump_solo, dump_teacher_forced
from fsgen.errors import UserError
from fsgen.models import description, tokenization
from fsgen.tables import parquet
from tests.conftest import NOISE, PARAMS, describe_all, run_pair, write_params, write_prompts

ECHO = "{% for m in messages %}{{ m.content }} {% endfor %}w0"
CHAT = PARAMS | {"models": {name: {"path": f"checkpoints/{name}", "prompt_format": "chat"} for name in NOISE}}


@pytest.fixture
def copies(tiny_checkpoints, tmp_path, monkeypatch) -> Path:
    """The three checkpoints, free to be changed, in the current folder."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(tiny_checkpoints, "checkpoints")
    write_prompts()
    return Path("checkpoints")


def give_template(home: Path, template: str) -> None:
    tokenizer = AutoTokenizer.from_pretrained(home)
    tokenizer.chat_template = template
    tokenizer.save_pretrained(home)


def plain(home: Path) -> ModelConfig:
    return ModelConfig(path=str(home), prompt_format="plain")


def test_parameters_are_counted_by_what_they_do(copies):
    """The head counts once whether tied or not; vocabulary matrices are no part of the rest."""
    weights = {
        "model.embed_tokens.weight": torch.zeros(34, 24),
        "lm_head.weight": torch.zeros(34, 24),
        "model.layers.0.w": torch.zeros(5, 24),
        "scale": torch.tensor(1.0),
    }
    save_file(weights, copies / "small/model.safetensors")

    sizes = description.describe("small", plain(copies / "small"))["parameters"]

    assert sizes == {"non_embedding": 5 * 24 + 1, "head": 34 * 24, "total": 2 * 34 * 24 + 5 * 24 + 1}


def test_weights_that_loading_does_not_read_are_not_counted(copies):
    """A second copy of the weights changes nothing; an index names the files that count."""
    home = copies / "small"
    before = description.describe("small", plain(home))
    shutil.copy(home / "model.safetensors", home / "consolidated.safetensors")
    assert description.describe("small", plain(home)) == before

    (home / "model.safetensors").rename(home / "model-00001-of-00001.safetensors")
    index = {"weight_map": {"any": "model-00001-of-00001.safetensors"}}
    (home / "model.safetensors.index.json").write_text(json.dumps(index))
    assert description.describe("small", plain(home))["parameters"] == before["parameters"]


def test_an_incomplete_checkpoint_is_one_sentence(copies):
    """No weights, no sizes: each names the model and what is missing."""
    (copies / "small/model.safetensors").unlink()
    with pytest.raises(UserError, match=r"models\.small: .* holds no safetensors weights"):
        description.describe("small", plain(copies / "small"))

    path = copies / "large/config.json"
    path.write_text(json.dumps({"n_embd": 24}))
    with pytest.raises(UserError, match=r"models\.large: its config\.json should name vocab_size"):
        description.describe("large", plain(copies / "large"))


def test_padding_saved_with_a_tokenizer_refuses_no_pair(copies):
    """Fine-tuning often leaves it there; it says how batches are cut, not which ids a text has."""
    path = copies / "tuned/tokenizer.json"
    spelling = json.loads(path.read_text())
    spelling["truncation"] = {
        "direction": "Right", "max_length": 64, "strategy": "LongestFirst", "stride": 0
    }  # fmt: skip
    path.write_text(json.dumps(spelling))

    tokenization.check_tokenizers(write_params(), "duo")


def test_chat_prompts_are_the_templates_ids(copies):
    """The whole pair runs on them, and they differ from the plain ones."""
    for name in NOISE:
        give_template(copies / name, ECHO)
    loaded = write_params(CHAT)
    describe_all(loaded)
    run_pair(loaded)

    prompts = parquet.read("data/prompts/toy.parquet")
    tokenizer = AutoTokenizer.from_pretrained(copies / "small")
    chat = tokenization.encode("small", "chat", tokenizer, prompts)
    written = parquet.read("data/rollouts/duo/toy/texts-*.parquet")
    assert chat == [[*tokenizer(text)["input_ids"], 0] for text in prompts["plain"]]
    assert set(written["prompt_tokens"]) <= set(map(len, chat))


def test_chat_without_a_usable_template_is_one_sentence(copies):
    """No template at all, or one that refuses a system turn: plain prompts are the remedy."""
    loaded = write_params(CHAT)
    with pytest.raises(UserError, match=r"its tokenizer has no chat template; set 'prompt_format: plain'\."):
        tokenization.check_tokenizers(loaded, "duo")

    for name in NOISE:
        give_template(copies / name, "{{ raise_exception('no system turn') }}")
    with pytest.raises(
        UserError, match=r"refuses a system turn .*no system turn.*; set 'prompt_format: plain'\."
    ):
        tokenization.check_tokenizers(loaded, "duo")


def test_templates_that_differ_refuse_the_pair(copies):
    """Before any text is written."""
    for name in NOISE:
        give_template(copies / name, ECHO)
    give_template(copies / "large", ECHO + " w1")

    with pytest.raises(UserError, match="should have the same tokenizer, but they differ"):
        tokenization.check_tokenizers(write_params(CHAT), "duo")


def test_prompts_that_two_models_spell_differently_are_refused(copies):
    """A template that turns one word into another passes the probe, and is caught at the real prompts."""
    for name in NOISE:
        give_template(copies / name, ECHO)
    give_template(copies / "large", ECHO.replace("m.content", "m.content | replace('w1', 'w2')"))
    loaded = write_params(CHAT)
    describe_all(loaded)
    for name in NOISE:
        dump_solo.dump_solo(loaded, name)

    with pytest.raises(
        UserError, match=r"large spells prompt 'toy-\d+' with other ids than the text's writer"
    ):
        dump_teacher_forced.dump_large(loaded, "duo")
    assert not Path("data/teacher_forced/large/duo").exists()
