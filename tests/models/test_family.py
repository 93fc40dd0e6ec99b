"""The embedded family: its problems, its tokenizer, its training, and the checkpoints that are committed."""

import itertools
import random
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import AutoTokenizer, LlamaForCausalLM

from fsgen.config.load import load_settings
from fsgen.config.schema import (
    ComputeConfig,
    CurriculumConfig,
    DatasetConfig,
    DumpConfig,
    FinetuneConfig,
    PretrainConfig,
    ReportConfig,
    Settings,
)
from fsgen.models import family
from fsgen.tasks import arith, arith_problems

ROOT = Path(__file__).parents[2]
MEMBER = PretrainConfig(
    hidden=16, layers=1, heads=2, intermediate=16, steps=6, batch=4, learning_rate=1e-3, seed=1
)
MIXED = CurriculumConfig(worked=0.5, terse=0.25, wrong=0.25)


@pytest.fixture(scope="module")
def default() -> Settings:
    """The shipped params.yaml."""
    return load_settings(ROOT / "params.yaml")


def test_a_problems_steps_lead_from_its_first_number_to_its_answer():
    """Each step is true, takes the last total and a number of the question, and stays in bounds."""
    chance = random.Random(4)
    lengths = set()
    for _ in range(500):
        question, steps, answer = arith_problems.make_problem(chance)
        total = int(re.search(r"has (\d+)", question).group(1))
        for step in steps:
            left, sign, right, message = re.fullmatch(r"(\d+) ([-+*]) (\d+) = (\d+)", step).groups()
            worked = {"+": int(left) + int(right), "-": int(left) - int(right), "*": int(left) * int(right)}
            assert int(left) == total
            assert right in question.split()
            assert int(message) == worked[sign]
            total = int(message)
            assert 0 <= total <= arith_problems.LARGEST
        assert total == answer
        lengths.add(len(steps))
    assert lengths == {1, 2, 3, 4, 5}


@pytest.mark.long
def test_training_never_sees_a_problem_of_the_pool():
    """The hash of a question says on which side it is."""
    trained = {question for question, _, _ in arith_problems.training_problems(random.Random(0), 2000)}
    pool = [prompt.plain for prompt in arith.prompts(DatasetConfig(task="arith", max_new_tokens=1))]

    assert len(set(pool)) == len(pool) == arith.POOL
    assert all(map(arith_problems.is_held_out, pool))
    assert not any(map(arith_problems.is_held_out, trained))


@pytest.mark.parametrize(
    ("text", "verdict", "extracted"),
    [
        ("34 - 28 = 6 . #### 6", "right", "6"),
        ("34 - 28 = 6 . #### 16", "wrong", "16"),
        ("#### 06", "right", "06"),
        ("34 - 28 = 6 .", "right", "6"),
        ("34 - 28 = 6 . ####", "right", "6"),
        ("", "unknown", None),
    ],
)
def test_grading_takes_the_number_after_the_mark_or_else_the_last(text, verdict, extracted):
    """Without any number there is nothing to judge."""
    reported = arith.grade(text, {"question": "", "answer": "34 - 28 = 6 . #### 6"})

    assert (reported.verdict, reported.extracted) == (verdict, extracted)


def test_the_tokenizer_spells_every_problem_and_reads_it_back():
    """No word is unknown, digits stand alone, and decoding gives the text."""
    tokenizer = family.make_tokenizer()
    chance = random.Random(11)
    for question, steps, answer in (arith_problems.make_problem(chance) for _ in range(300)):
        text = f"{question} {arith_problems.write_answer(steps, answer)}"
        ids = tokenizer(text)["input_ids"]

        assert tokenizer.unk_token_id not in ids
        assert tokenizer.decode(ids) == text
    assert len(tokenizer("137")["input_ids"]) == 3
    assert len(tokenizer) < 100


def test_answers_mix_the_styles_in_the_curriculums_shares():
    """Terse ones have no steps, wrong ones end in another number, all end in the mark and a number."""
    documents = family.make_documents(random.Random(2), MIXED, 2000)
    terse = sum(answer.startswith("####") for _, answer in documents)
    wrong = 0
    for question, answer in documents:
        message = int(re.search(r"#### (\d+)$", answer).group(1))
        total = int(re.search(r"has (\d+)", question).group(1))
        steps = re.findall(r"([-+*]) (\d+) = (\d+)", answer)
        for sign, n, _ in steps:
            total = {"+": total + int(n), "-": total - int(n), "*": total * int(n)}[sign]
        wrong += bool(steps) and message != total

    assert terse / len(documents) == pytest.approx(0.25, abs=0.04)
    assert wrong / len(documents) == pytest.approx(0.25, abs=0.04)


@pytest.mark.models
def test_loss_falls_on_answers_alone():
    """Labels are the answer's ids and the end; questions and padding bear none."""
    tokenizer = family.make_tokenizer()
    for ids_BL, labels_BL in itertools.islice(family.make_batches(tokenizer, MEMBER, MIXED), 5):
        bears_BL = labels_BL != family.IGNORED
        assert torch.equal(ids_BL[bears_BL], labels_BL[bears_BL])
        for ids, bears in zip(ids_BL, bears_BL, strict=True):
            first = int(bears.nonzero()[0])
            assert tokenizer.decode(ids[:first]).endswith("?")
            assert bears[first : int(bears.nonzero()[-1]) + 1].all()
            assert ids[bears][-1] == tokenizer.eos_token_id


@pytest.mark.models
def test_training_is_the_same_twice_and_its_seed_matters(tmp_path, monkeypatch):
    """Same parameters, same bytes on this machine; tuning starts from its base."""
    monkeypatch.chdir(tmp_path)
    tuned = FinetuneConfig(base="a", steps=3, batch=4, learning_rate=1e-3, seed=3)
    made = {}
    for folder, seed in (("one", 1), ("two", 1), ("three", 2)):
        world = settings_with({"a": replace(MEMBER, seed=seed)}, {"b": tuned})
        family.train(world, "a")
        family.tune(world, "b")
        made[folder] = [Path("data/embedded", name, "model.safetensors").read_bytes() for name in "ab"]

    assert made["one"] == made["two"]
    assert made["one"][0] != made["three"][0]
    assert made["one"][0] != made["one"][1]


def settings_with(members: dict, tuned: dict) -> Settings:
    """Settings that only the family's room reads."""
    nothing = {section: {} for section in ("datasets", "models", "pairs", "methods", "routers")}
    dump = DumpConfig(nats_below_top=3.0, min_top_k=2, max_top_k=2, prompts_per_shard=1)
    compute = ComputeConfig(device="cpu", dtype="float32", batch_size=1, max_batch_tokens=1)
    return Settings(
        seed=0,
        policies=(),
        dump=dump,
        compute=compute,
        report=ReportConfig(explorer_prompts=1),
        embedded_curriculum=MIXED,
        embedded_models=members,
        embedded_finetunes=tuned,
        **nothing,
    )


@pytest.mark.models
def test_committed_checkpoints_are_what_params_yaml_describes(default):
    """Sizes as set, one tokenizer for all, 20 MB at most together."""
    folder = ROOT / "data/embedded"
    members = {**default.embedded_models, **default.embedded_finetunes}
    assert {path.name for path in folder.iterdir()} == set(members)
    for name, entry in members.items():
        network = LlamaForCausalLM.from_pretrained(folder / name)
        base = default.embedded_models[getattr(entry, "base", name)]
        assert (network.config.hidden_size, network.config.num_hidden_layers) == (base.hidden, base.layers)
        tokenizer = AutoTokenizer.from_pretrained(folder / name)
        assert tokenizer.get_vocab() == family.make_tokenizer().get_vocab()
    assert sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()) < 20e6
