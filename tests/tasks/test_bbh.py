"""BBH: which answer a text gives to each kind of question, and the solved examples that a model is shown."""

import json
import os
from pathlib import Path

import pytest

from fsgen.config.schema import DatasetConfig
from fsgen.errors import UserError
from fsgen.tasks import bbh

R, W, U = "right", "wrong", "unknown"

# text, gold, extracted, strict, flexible
CASES = [
    # choices
    ("So the answer is (C).", "(C)", "(C)", R, R),
    ("So the answer is (C).", "(D)", "(C)", W, W),
    ("So the answer is C.", "(C)", "(C)", R, R),
    ("so the answer is (c)", "(C)", "(C)", R, R),
    ("So the answer is **(C)**.", "(C)", "(C)", R, R),
    ("So the answer is $\\boxed{C}$.", "(C)", "(C)", R, R),
    ("So the answer is \\boxed{\\text{(C)}}.", "(C)", "(C)", R, R),
    ("So the answer is: (Q) purple.", "(Q)", "(Q)", R, R),
    ("The answer is (A). No, the answer is (B).", "(B)", "(B)", R, R),
    ("The answer is (A). No, the answer is (B).", "(A)", "(B)", W, W),
    ("So the answer is a gamble.", "(A)", None, U, U),
    ("So the answer is Claire's.", "(C)", None, U, U),
    ("(A) fails, which leaves (B).", "(B)", "(B)", U, R),
    ("Answer: B", "(B)", "(B)", U, R),
    ("Answer: **B**", "(B)", "(B)", U, R),
    ("It has to be option D", "(D)", "(D)", U, R),
    ("\\boxed{B}", "(B)", "(B)", U, R),
    ("We look at each.\nB", "(B)", "(B)", U, R),
    ("B.", "(B)", "(B)", U, R),
    ("A penguin is heavy.", "(A)", None, U, U),
    ("Alice has a book.", "(A)", None, U, U),
    ("", "(A)", None, U, U),
    # numbers
    ("So the answer is -35.", "-35", "-35", R, R),
    ("So the answer is 35.", "-35", "35", W, W),
    ("So the answer is \u221235.", "-35", "-35", R, R),
    ("So the answer is 1,234.", "1234", "1234", R, R),
    ("So the answer is 72.0.", "72", "72", R, R),
    ("So the answer is 72.5.", "72", "72.5", W, W),
    ("So the answer is **7**.", "7", "7", R, R),
    ("So the answer is $7$.", "7", "7", R, R),
    ("So the answer is 7 objects.", "7", "7", R, R),
    ("So the answer is 3 + 4 = 7.", "7", "7", R, R),
    ("So the answer is seven.", "7", None, U, U),
    ("3 + 4 = 7", "7", "7", U, R),
    ("-8 - 27 = -35", "-35", "-35", U, R),
    ("I count 3, then 4, so 7 in all.", "7", "7", U, R),
    ("I count 7 in all, 4 of them red.", "7", "4", U, W),
    ("\\boxed{7}", "7", "7", U, R),
    ("None of them.", "0", None, U, U),
    # words of two
    ("So the answer is True.", "True", "true", R, R),
    ("So the answer is true.", "True", "true", R, R),
    ("So the answer is False.", "True", "false", W, W),
    ("So the answer is Yes.", "Yes", "yes", R, R),
    ("So the answer is yes", "yes", "yes", R, R),
    ("So the answer is No.", "Yes", "no", W, W),
    ("So the answer is **No**.", "No", "no", R, R),
    ("So the answer is valid.", "valid", "valid", R, R),
    ("So the answer is invalid.", "invalid", "invalid", R, R),
    ("So the answer is invalid.", "valid", "invalid", W, W),
    ("So the answer is not valid.", "invalid", "invalid", R, R),
    ("So the answer is \"invalid\".", "invalid", "invalid", R, R),
    ("So the answer is November.", "No", None, U, U),
    ("So the answer is that it is valid.", "valid", "valid", R, R),
    ("The conclusion follows.\nThe argument is valid.", "valid", "valid", U, R),
    ("The argument is invalid.", "valid", "invalid", U, W),
    ("The argument is not valid.", "invalid", "invalid", U, R),
    ("Yes, he did.", "Yes", "yes", U, R),
    ("No, he did not.", "Yes", "no", U, W),
    ("Yes or no?\nI cannot say.", "Yes", None, U, U),
    ("True and False is False.\nFalse", "False", "false", U, R),
    # brackets
    ("So the answer is } ).", "} )", "} )", R, R),
    ("So the answer is })", "} )", "} )", R, R),
    ("So the answer is ) }.", "} )", ") }", W, W),
    ("So the answer is }.", "} )", "}", W, W),
    ("So the answer is ] > } ) .", "] > } )", "] > } )", R, R),
    ("So the answer is `] >`.", "] >", "] >", R, R),
    ("What is left: } )", "} )", "} )", U, R),
    ("} )", "} )", "} )", U, R),
    ("Nothing is open.", "} )", None, U, U),
    # lists of words
    ("So the answer is apron mint mole.", "apron mint mole", "apron mint mole", R, R),
    ("So the answer is Apron Mint Mole", "apron mint mole", "apron mint mole", R, R),
    ("So the answer is apron, mint, mole.", "apron mint mole", "apron mint mole", R, R),
    ("So the answer is **apron mint mole**.", "apron mint mole", "apron mint mole", R, R),
    ("So the answer is mint apron mole.", "apron mint mole", "mint apron mole", W, W),
    ("So the answer is apron mint.", "apron mint mole", "apron mint", W, W),
    ("So the answer is apron mint mole pear.", "apron mint mole", "apron mint mole pear", W, W),
    ("So the answer is at&t malton.", "at&t malton", "at&t malton", R, R),
    ("Sorted: apron mint mole", "apron mint mole", "apron mint mole", U, R),
    ("By first letters:\napron mint mole", "apron mint mole", "apron mint mole", U, R),
    ("So the answer is dearth, wind, & fire.", "dearth, wind, & fire", "dearth wind & fire", R, R),
]  # fmt: skip


@pytest.mark.parametrize(("text", "gold", "extracted", "strict", "flexible"), CASES)
def test_a_text_gives_the_answer_a_reader_would_take(text, gold, extracted, strict, flexible):
    """Strict where it is stated, flexible where the text leaves it to the reader."""
    message = bbh.grade(text, {"target": gold})

    assert (extracted, strict, flexible) == (message.extracted, message.strict, message.flexible)
    assert message.verdict == (flexible if strict == U else strict)


@pytest.fixture
def school(tmp_path) -> Path:
    """A folder with two rows of every task."""
    for task in bbh.SUBTASKS:
        rows = [{"input": f"{task} {i}?", "target": "(A)"} for i in range(2)]
        (tmp_path / f"{task}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path


def dataset(path: Path, **given) -> DatasetConfig:
    return DatasetConfig(task="bbh", max_new_tokens=64, path=str(path), **given)


def test_every_task_shows_examples_of_its_own(school):
    """Two rows of 27 tasks, each behind its own task's solved questions."""
    shown = json.loads(bbh.EXEMPLARS.read_text())
    result = bbh.prompts(dataset(school, shots=2))

    assert len(bbh.SUBTASKS) == len(shown) == 27
    assert len(result) == 54
    for prompt in result:
        _, task, number = prompt.prompt_id.split("-")
        requested = [turn["content"] for turn in prompt.messages if turn["role"] == "user"]
        assert requested == [example["input"] for example in shown[task]] + [f"{task} {int(number)}?"]
        assert prompt.plain.endswith(f"\n\nQuestion: {requested[-1]}\nAnswer:")


def test_a_missing_task_and_a_missing_column_are_named(school):
    """Twenty-six tasks are no BBH."""
    (school / "snarks.jsonl").write_text('{"input": "?"}\n')
    with pytest.raises(UserError, match=r"'snarks'.*text in the column 'target', got none in row 0"):
        bbh.prompts(dataset(school))
    (school / "snarks.jsonl").unlink()
    with pytest.raises(UserError, match=r"should hold snarks\.jsonl or snarks\.parquet, got neither"):
        bbh.prompts(dataset(school))


def test_more_examples_than_there_are_is_refused(school):
    """Two were written for each task."""
    with pytest.raises(UserError, match="has 2 solved examples a task, got 3 shots"):
        bbh.prompts(dataset(school, shots=3))


def test_the_examples_grade_themselves_right():
    """By what they state, and every other example's target of their task is judged by its own."""
    for task, examples in json.loads(bbh.EXEMPLARS.read_text()).items():
        for example in examples:
            text = f"{example['reasoning']} So the answer is {example['target']}."
            message = bbh.grade(text, example)
            assert (message.strict, message.verdict) == (R, R), task
        targets = {example["target"] for example in examples}
        assert len(targets) == 2 or task in ("penguins_in_a_table", "movie_recommendation") or "seven" in task


def test_the_examples_that_can_be_computed_are_right():
    """Booleans, sums, sorted words and closed brackets, by Python."""
    shown = json.loads(bbh.EXEMPLARS.read_text())
    for example in shown["boolean_expressions"] + shown["multistep_arithmetic_two"]:
        requested = example["input"].removesuffix(" is").removesuffix(" =")
        assert str(eval(requested)) == example["target"]
    for example in shown["word_sorting"]:
        words = example["input"].partition("List: ")[2].split()
        assert " ".join(sorted(words)) == example["target"]
    for example in shown["dyck_languages"]:
        left = example["input"].partition("Input: ")[2] + " " + example["target"]
        left = left.replace(" ", "")
        while any(pair in left for pair in ("()", "[]", "{}", "<>")):
            for pair in ("()", "[]", "{}", "<>"):
                left = left.replace(pair, "")
        assert left == ""


@pytest.mark.skipif("FSGEN_DATA" not in os.environ, reason="FSGEN_DATA names no folder with bbh")
def test_every_gold_answer_of_bbh_is_right_and_another_one_wrong():
    """All 6,511, stated or alone as a text; every other target of the task is wrong."""
    result = bbh.prompts(dataset(Path(os.environ["FSGEN_DATA"], "bbh")))
    shown = json.loads(bbh.EXEMPLARS.read_text())
    inputs = {example["input"] for subset in shown.values() for example in subset}

    assert len(result) == len({prompt.prompt_id for prompt in result}) == 6511
    assert not inputs & {prompt.messages[-1]["content"] for prompt in result}
    by_task: dict[str, list[str]] = {}
    for prompt in result:
        by_task.setdefault(prompt.prompt_id.split("-")[1], []).append(prompt.gold["target"])
    for targets in by_task.values():
        for target in targets:
            message = bbh.grade(f"So the answer is {target}.", {"target": target})
            assert (message.strict, message.flexible) == (R, R), target
            assert bbh.grade(target, {"target": target}).flexible == R, target
        for other in set(targets) - {targets[0]}:
            assert bbh.grade(f"So the answer is {other}.", {"target": targets[0]}).verdict != R, other
