"""MBPP: which code a text holds, whether it passes, and what a model is asked."""

import json
import os
from pathlib import Path

import pytest

from fsgen.config.schema import DatasetConfig
from fsgen.errors import UserError
from fsgen.tasks import mbpp
from fsgen.tasks.graders import sandbox

R, W, U = "right", "wrong", "unknown"
DEF = "def triple(x):\n    return 3 * x"
BAD = "def triple(x):\n    return x + 3"
GOLD = {"test_list": ["assert triple(2) == 6", "assert triple(0) == 0"], "test_setup_code": ""}


def fenced(code: str, language: str = "python") -> str:
    return f"```{language}\n{code}\n```"


# text, extracted, strict, flexible, outcome
CASES = [
    # a block, whatever stands around it
    (fenced(DEF), DEF, R, R, "pass"),
    (fenced(DEF, ""), DEF, R, R, "pass"),
    (fenced(DEF, "py"), DEF, R, R, "pass"),
    (fenced(DEF, "Python3"), DEF, R, R, "pass"),
    (f" {fenced(DEF)}", DEF, R, R, "pass"),
    (f"Here is the function:\n\n{fenced(DEF)}\n\nIt multiplies by 3.", DEF, R, R, "pass"),
    (fenced(BAD), BAD, W, W, "fail"),
    (f"{fenced(DEF)}\nFor example:\n{fenced('print(triple(2))')}", DEF, R, R, "pass"),
    (f"Call it so:\n{fenced('triple(2)')}\nwhere\n{fenced(DEF)}", DEF, R, R, "pass"),
    (f"{fenced(BAD)}\nOr shorter:\n{fenced(DEF)}", BAD, W, W, "fail"),
    (f"{fenced(DEF)}\nWrong would be:\n{fenced(BAD)}", DEF, R, R, "pass"),
    (f"```python\n{DEF}", DEF, R, R, "pass"),
    (f"```python\n{DEF}\n", DEF, R, R, "pass"),
    (f"```python\n{DEF}\n\nThat is all.", f"{DEF}\n\nThat is all.", W, R, "error"),
    (fenced(f"{DEF}\nprint(triple(4))"), f"{DEF}\nprint(triple(4))", R, R, "pass"),
    (fenced(f"{DEF}\nassert triple(1) == 4"), f"{DEF}\nassert triple(1) == 4", W, R, "error"),
    (fenced(f"import math\n{DEF}"), f"import math\n{DEF}", R, R, "pass"),
    (fenced("triple = lambda x: 3 * x"), "triple = lambda x: 3 * x", R, R, "pass"),
    (fenced("def triple(x)\n    return 3 * x"), "def triple(x)\n    return 3 * x", W, U, "error"),
    (fenced("def thrice(x):\n    return 3 * x"), "def thrice(x):\n    return 3 * x", W, W, "error"),
    (fenced("def triple(x):\n    while True: pass"), "def triple(x):\n    while True: pass", W, W, "timeout"),
    (fenced("def triple(x):\n    exit()"), "def triple(x):\n    exit()", W, W, "error"),
    (fenced("def triple(x):\n    return [0] * 10**10"), None, W, W, "memory"),
    (fenced("import os\nos._exit(0)"), None, W, W, "killed"),
    ("```\n```", "", U, U, None),
    # code without a block
    (DEF, DEF, U, R, "pass"),
    (f"\n{DEF}\n", DEF, U, R, "pass"),
    (f"    {DEF}".replace("\n", "\n    "), DEF, U, R, "pass"),
    (BAD, BAD, U, W, "fail"),
    (f"Sure, this does it:\n\n{DEF}", DEF, U, R, "pass"),
    (f"{DEF}\n\nid: 12\nQuestion", DEF, U, R, "pass"),
    (f"{DEF}\n\nThis returns three times x.", DEF, U, R, "pass"),
    (f"{DEF}\n\nprint(triple(5))", DEF, U, R, "pass"),
    (f"{DEF}\n\ndef unfinished(", DEF, U, R, "pass"),
    (f"from math import *\n{DEF}", f"from math import *\n{DEF}", U, R, "pass"),
    (f"@staticmethod\n{DEF}", f"@staticmethod\n{DEF}", U, R, "pass"),
    (f"FACTOR = 3\n{DEF.replace('3', 'FACTOR')}", f"FACTOR = 3\n{DEF.replace('3', 'FACTOR')}", U, R, "pass"),
    (f"{DEF}\n{DEF}\nDone.", f"{DEF}\n{DEF}", U, R, "pass"),
    ("Define it with def and return.", None, U, U, None),
    ("I cannot write that.", None, U, U, None),
    ("", None, U, U, None),
]  # fmt: skip


@pytest.fixture(scope="module")
def granted() -> sandbox.Protections:
    try:
        return sandbox.protections(weak=False)
    except UserError as refused:
        pytest.skip(f"no sandbox here: {refused}")


@pytest.mark.parametrize(("text", "extracted", "strict", "flexible", "outcome"), CASES)
def test_a_text_is_judged_by_the_code_that_a_reader_would_run(
    text, extracted, strict, flexible, outcome, granted, monkeypatch
):
    """The first block that defines the function, or the code up to its last definition."""
    monkeypatch.setattr(mbpp, "LIMITS", sandbox.Limits(cpu_s=1, wall_s=2))
    message = mbpp.grade(text, GOLD, granted)

    assert (strict, flexible, outcome) == (message.strict, message.flexible, message.outcome)
    assert message.verdict == (flexible if strict == U else strict)
    if outcome not in ("memory", "killed"):
        assert (message.extracted or None) == (extracted or None)


def test_a_text_that_runs_on_is_cut_before_the_next_question():
    """What FS-GEN ran with the answer, and so failed, is the stop string here."""
    assert mbpp.TASK.stops == ("\nQuestion:", "\n[DONE]")


def test_setup_code_comes_after_the_solution(granted):
    """Tests of trees build theirs from the class that the solution defines."""
    gold = {"test_list": ["assert depth(root) == 1"], "test_setup_code": "root = Node()"}
    text = fenced("class Node:\n    pass\ndef depth(node):\n    return 1")

    assert mbpp.grade(text, gold, granted).verdict == R


def row(number: int) -> dict:
    return {
        "task_id": number,
        "text": f"Write a function to add {number}.",
        "code": f"def add(x):\r\n\treturn x + {number}",
        "test_list": [f"assert add(1) == {1 + number}"],
        "test_setup_code": "",
        "challenge_test_list": [],
    }


@pytest.fixture
def school(tmp_path) -> Path:
    """All 974 ids in one file."""
    (tmp_path / "mbpp.jsonl").write_text("".join(json.dumps(row(i)) + "\n" for i in range(1, 975)))
    return tmp_path


def dataset(path: Path, **given) -> DatasetConfig:
    return DatasetConfig(task="mbpp", max_new_tokens=64, path=str(path), **given)


@pytest.mark.parametrize(
    ("split", "first", "last", "count"),
    [("test", 11, 510, 500), ("validation", 511, 600, 90), ("train", 601, 974, 374), ("prompt", 1, 10, 10)],
)
def test_splits_are_those_of_the_paper(school, split, first, last, count):
    """By task id, whatever the order of the file."""
    names = [prompt.prompt_id for prompt in mbpp.prompts(dataset(school, split=split))]

    assert (names[0], names[-1], len(names)) == (f"mbpp-{first:03d}", f"mbpp-{last:03d}", count)


def test_a_folder_with_the_hubs_splits_gives_the_same_prompts(school, tmp_path):
    """Four files or one."""
    folder = tmp_path / "hub"
    folder.mkdir()
    for split, ids in mbpp.IDS.items():
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(row(i)) + "\n" for i in ids))

    assert mbpp.prompts(dataset(school, shots=3)) == mbpp.prompts(dataset(folder, shots=3))


@pytest.mark.parametrize(("shots", "shown"), [(0, []), (3, [2, 3, 4]), (10, [*range(1, 11)])])
def test_exemplars_are_tasks_2_to_4_or_1_to_10(school, shots, shown, granted):
    """Solved in the format that is asked for, which their own grader takes."""
    prompt = mbpp.prompts(dataset(school, shots=shots))[0]
    answers = [turn["content"] for turn in prompt.messages if turn["role"] == "assistant"]

    assert answers == [f"```python\ndef add(x):\n\treturn x + {i}\n```" for i in shown]
    assert all(mbpp.grade(a, row(i), granted).strict == R for a, i in zip(answers[:2], shown, strict=False))
    assert prompt.plain.count("Question: Write a function") == shots + 1
    assert prompt.plain.endswith("These assertions have to hold:\nassert add(1) == 12\nAnswer:")


@pytest.mark.parametrize("given", [{"shots": 4}, {"split": "dev"}, {"split": "prompt", "shots": 3}])
def test_other_shots_and_splits_are_refused(school, given):
    """The published exemplar sets alone, and none out of the split that is asked about."""
    with pytest.raises(UserError, match=r"MBPP has the splits .* 0, 3 or 10 shots"):
        mbpp.prompts(dataset(school, **given))


def test_a_missing_task_is_named(school):
    """A shorter file is no smaller benchmark."""
    lines = (school / "mbpp.jsonl").read_text().splitlines()
    (school / "mbpp.jsonl").write_text("\n".join(lines[:200]) + "\n")

    with pytest.raises(UserError, match="should hold task 201, got none"):
        mbpp.prompts(dataset(school))


@pytest.mark.skipif("FSGEN_DATA" not in os.environ, reason="FSGEN_DATA names no folder with mbpp/mbpp.jsonl")
def test_the_real_rows_become_prompts():
    """500 test prompts with three tests each; none of the reference solutions holds a stop string."""
    folder = Path(os.environ["FSGEN_DATA"], "mbpp")
    prompts = mbpp.prompts(dataset(folder, shots=10))
    rows = [json.loads(line) for line in (folder / "mbpp.jsonl").read_text().splitlines()]

    assert len(prompts) == 500
    assert {len(prompt.gold["test_list"]) for prompt in prompts} == {3}
    assert not any(stop in row["code"] for row in rows for stop in mbpp.TASK.stops)
