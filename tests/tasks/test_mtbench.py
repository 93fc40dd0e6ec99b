"""MT-Bench: two questions a prompt, and what a judge is asked about the answers."""

import json
import os
from pathlib import Path

import pytest

from fsgen.config.schema import DatasetConfig
from fsgen.errors import UserError
from fsgen.tasks import mtbench
from fsgen.tasks.graders.judge import Request

ROW = {"question_id": 81, "category": "writing", "turns": ["Write a post.", "Now without the letter e."]}


@pytest.fixture
def school(tmp_path) -> Path:
    solved = ROW | {"question_id": 111, "category": "math", "reference": ["4", "16"]}
    (tmp_path / "question.jsonl").write_text(f"{json.dumps(ROW)}\n{json.dumps(solved)}\n")
    return tmp_path


def prompts(path: Path, **given) -> list:
    return mtbench.prompts(DatasetConfig(task="mtbench", max_new_tokens=64, path=str(path), **given))


def test_the_second_question_follows_the_answer(school):
    """As a chat turn, or as plain text behind what a model that runs on would write itself."""
    first, _ = prompts(school)
    (follow_up,) = first.follow_ups

    assert first.prompt_id == "mtbench-081"
    assert first.messages == [{"role": "user", "content": "Write a post."}]
    assert first.plain == "Question: Write a post.\nAnswer:"
    assert follow_up == ("Now without the letter e.", "\nQuestion: Now without the letter e.\nAnswer:")
    assert follow_up.plain.startswith(mtbench.TASK.stops[0])


def test_a_judge_sees_the_conversation_up_to_the_answer_that_it_rates(school):
    """One request a turn; the reference travels where there is one."""
    writing, math = (prompt.gold for prompt in prompts(school))
    one, two = mtbench.requests(["A post.", "A post."], writing)

    assert one == Request("writing", ("Write a post.",), ("A post.",), None)
    assert two == Request("writing", tuple(ROW["turns"]), ("A post.", "A post."), None)
    assert mtbench.requests(["5"], math) == [Request("math", ("Write a post.",), ("5",), ("4", "16"))]


def test_shots_are_refused(school):
    """An open question has no solved form."""
    with pytest.raises(UserError, match="MT-Bench shows no solved problems, got 2 shots"):
        prompts(school, shots=2)


@pytest.mark.skipif("FSGEN_DATA" not in os.environ, reason="FSGEN_DATA names no folder with mtbench")
def test_the_real_questions_have_two_turns_each():
    """Eighty of them, ten of each of eight categories."""
    result = prompts(Path(os.environ["FSGEN_DATA"], "mtbench"))
    categories = [prompt.gold["category"] for prompt in result]

    assert len({prompt.prompt_id for prompt in result}) == 80
    assert all(len(prompt.follow_ups) == 1 for prompt in result)
    assert {categories.count(name) for name in categories} == {10}
