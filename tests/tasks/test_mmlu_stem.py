"""MMLU-STEM: which letter a text says, what a model is asked, and the solved examples that it is shown."""

import json
import os
import re
from collections import Counter
from pathlib import Path

import pytest

from fsgen.config.schema import DatasetConfig
from fsgen.errors import UserError
from fsgen.tasks import mmlu_stem

R, W, U = "right", "wrong", "unknown"
CHOICES = ["an increase", "no increase", "1", "11"]

# text, gold letter, extracted, strict, flexible
CASES = [
    # the format that is asked for, dressed or not
    ("The answer is (B).", "B", "B", R, R),
    ("The answer is (B).", "A", "B", W, W),
    ("the answer is (b)", "B", "B", R, R),
    ("So the answer is B.", "B", "B", R, R),
    ("Therefore the answer is: C", "C", "C", R, R),
    ("The answer is **(B)**.", "B", "B", R, R),
    ("The answer is **B**", "B", "B", R, R),
    ("**The answer is (D).**", "D", "D", R, R),
    ("The answer is $(C)$.", "C", "C", R, R),
    ("The answer is \\boxed{C}.", "C", "C", R, R),
    ("The answer is $\\boxed{\\text{(C)}}$.", "C", "C", R, R),
    ("The answer is \\text{B}.", "B", "B", R, R),
    ("The answer is\n(A)", "A", "A", R, R),
    ("The answer is `D`.", "D", "D", R, R),
    ("The answer is \"A\".", "A", "A", R, R),
    ("The correct answer is (A) an increase.", "A", "A", R, R),
    ("Step 1 gives 11. The answer is (D).", "D", "D", R, R),
    ("THE ANSWER IS (A)!", "A", "A", R, R),
    # several answers: the last one counts
    ("The answer is (A). Wait, no: the answer is (D).", "D", "D", R, R),
    ("The answer is (A). Wait, no: the answer is (D).", "A", "D", W, W),
    ("Not (A) but (B). The answer is (B).", "B", "B", R, R),
    ("The answer is (C), since (A) and (B) are too small.", "C", "C", R, R),
    ("The answer is (A) and (C).", "A", "C", U, W),
    ("The answer is (A) or (C).", "A", "C", U, W),
    # letters that are none of the choices, and letters of prose
    ("The answer is (E).", "A", None, U, U),
    ("The answer is a.", "A", None, U, U),
    ("The answer is a cat.", "A", None, U, U),
    ("The answer is A-flat.", "A", None, U, U),
    ("The answer is Avogadro's number.", "A", None, U, U),
    ("I think that a vitamin is needed.", "A", None, U, U),
    ("Vitamin C helps, as does f(a) = b.", "C", None, U, U),
    ("Consider plan B of the group A elements.", "B", None, U, U),
    ("I would say so.", "A", None, U, U),
    # other ways to name a choice
    ("Answer: B", "B", "B", U, R),
    ("Answer: (B)", "B", "B", U, R),
    ("**Answer:** D", "D", "D", U, R),
    ("Answer - C", "C", "C", U, R),
    ("The correct choice is D", "D", "D", U, R),
    ("It must be option C.", "C", "C", U, R),
    ("Correct option: **A**", "A", "A", U, R),
    ("\\boxed{B}", "B", "B", U, R),
    ("$\\boxed{\\text{B}}$", "B", "B", U, R),
    ("\\boxed{(D)}", "D", "D", U, R),
    ("B", "B", "B", U, R),
    ("(B)", "B", "B", U, R),
    ("B.", "B", "B", U, R),
    ("**C**", "C", "C", U, R),
    ("We work it out.\n\nC", "C", "C", U, R),
    ("So it is (A), not more.", "A", "A", U, R),
    ("(A) is too small, so (B).", "B", "B", U, R),
    ("(A) is too small, so (B).", "A", "B", U, W),
    ("It is choice (D) 11", "D", "D", U, R),
    # a choice in words
    ("So there is an increase.", "A", "A", U, R),
    ("So there is no increase.", "B", "B", U, R),
    ("The sum is 11.", "D", "D", U, R),
    ("The sum is 1.", "C", "C", U, R),
    ("The sum is 1 or 11.", "D", None, U, U),
    ("The sum is 111.", "D", None, U, U),
    ("There are 11 steps.\nNone of this helps.", "D", None, U, U),
    ("", "A", None, U, U),
    ("I do not know.", "B", None, U, U),
]  # fmt: skip


@pytest.mark.parametrize(("text", "gold", "extracted", "strict", "flexible"), CASES)
def test_a_text_says_the_letter_a_reader_would_take(text, gold, extracted, strict, flexible):
    """Strict by the sentence that is asked for, flexible by what the text comes to."""
    message = mmlu_stem.grade(text, {"answer": "ABCD".index(gold), "choices": CHOICES})

    assert (extracted, strict, flexible) == (message.extracted, message.strict, message.flexible)
    assert message.verdict == (flexible if strict == U else strict)


@pytest.mark.parametrize(
    ("text", "counted"),
    [
        ("So the answer is (B). Done.\n\nNext we", "So the answer is (B). Done."),
        ("The answer is **(B)**\nbecause", "The answer is **(B)**"),
        ("The answer is $\\boxed{\\text{B}}$.\nNow", "The answer is $\\boxed{\\text{B}}$."),
        (
            "What the answer is, we see.\nThe answer is C.\nMore",
            "What the answer is, we see.\nThe answer is C.",
        ),
        ("Whether the answer is plausible we check next:", None),
    ],
)
def test_the_answer_closes_with_the_line_that_states_it(text, counted):
    """A sentence that only talks of the answer closes nothing."""
    ends = [result.end() for result in re.finditer(mmlu_stem.ANSWER, text)]

    assert (text[: ends[-1]] if ends else None) == counted


def row(subject: str = "astronomy", **other) -> dict:
    return {"question": "Which?", "subject": subject, "choices": list("wxyz"), "answer": 1} | other


def school(folder: Path, *result: dict) -> DatasetConfig:
    (folder / "test.jsonl").write_text("".join(json.dumps(subset) + "\n" for subset in result))
    return DatasetConfig(task="mmlu_stem", max_new_tokens=64, path=str(folder), shots=2)


@pytest.mark.parametrize("subject", mmlu_stem.SUBJECTS)
def test_every_subject_shows_examples_of_its_own(subject, tmp_path):
    """Not one subject's for all, which is what FS-GEN's copy of the data came to."""
    (prompt,) = mmlu_stem.prompts(school(tmp_path, row(subject)))
    subset = json.loads(mmlu_stem.EXEMPLARS.read_text())[subject]

    assert [subset[i]["question"] in prompt.plain for i in range(3)] == [True, True, False]
    assert [turn["role"] for turn in prompt.messages] == ["system"] + ["user", "assistant"] * 2 + ["user"]
    assert prompt.plain.endswith("Question: Which?\n(A) w\n(B) x\n(C) y\n(D) z\nAnswer:")


def test_rows_are_numbered_within_their_subject_and_others_are_left_out(tmp_path):
    """So a name does not depend on the rows of other subjects around it."""
    result = mmlu_stem.prompts(
        school(tmp_path, row(), row("world_religions"), row("machine_learning"), row(question="What?"))
    )

    assert [prompt.prompt_id for prompt in result] == [
        "mmlu_stem-astronomy-0000", "mmlu_stem-machine_learning-0000", "mmlu_stem-astronomy-0001",
    ]  # fmt: skip
    assert result[0].gold == {"answer": 1, "choices": list("wxyz")}


@pytest.mark.parametrize(
    ("result", "message"),
    [
        (row("world_religions"), "should find subjects such as 'astronomy'"),
        (row(choices=list("xyz")), "should have four choices and an answer from 0 to 3, got 3 and 1"),
        (row(answer=4), "got 4 and 4"),
        (row(answer="B"), "should have a number in the column 'answer', got 'B'"),
        ({"question": "?"}, "should have text in the column 'subject', got none"),
    ],
)
def test_bad_rows_are_one_sentence(result, message, tmp_path):
    """The column or the number that is wrong is named."""
    with pytest.raises(UserError, match=message):
        mmlu_stem.prompts(school(tmp_path, result))


def test_more_examples_than_there_are_is_refused(tmp_path):
    """Three were written for each subject."""
    entry = school(tmp_path, row())
    with pytest.raises(UserError, match="has 3 solved examples a subject, got 4 shots"):
        mmlu_stem.prompts(DatasetConfig(**vars(entry) | {"shots": 4}))


def test_the_examples_grade_themselves_right():
    """Three a subject, letters evenly spread, and each one's own answer is the only right one."""
    shown = json.loads(mmlu_stem.EXEMPLARS.read_text())
    letters = Counter(example["answer"] for subset in shown.values() for example in subset)

    assert set(shown) == set(mmlu_stem.SUBJECTS)
    assert {len(subset) for subset in shown.values()} == {3}
    assert min(letters.values()) >= 11
    for subset in shown.values():
        for example in subset:
            assert len(set(example["choices"])) == 4
            text = f"{example['reasoning']} The answer is ({'ABCD'[example['answer']]})."
            verdicts = [mmlu_stem.grade(text, example | {"answer": i}).verdict for i in range(4)]
            assert verdicts == [R if i == example["answer"] else W for i in range(4)]


def words(text: str) -> list[str]:
    return re.findall(r"\w+", text.lower())


@pytest.mark.skipif("FSGEN_DATA" not in os.environ, reason="FSGEN_DATA names no folder with mmlu_stem")
def test_no_example_is_one_of_the_questions():
    """No run of eight words in common with any test question."""
    prompts = mmlu_stem.prompts(
        DatasetConfig(
            task="mmlu_stem", max_new_tokens=1, path=str(Path(os.environ["FSGEN_DATA"], "mmlu_stem"))
        )
    )
    requested = {tuple(w[i : i + 8]) for p in prompts for w in [words(p.plain)] for i in range(len(w) - 7)}
    shown = json.loads(mmlu_stem.EXEMPLARS.read_text())

    for example in (example for subset in shown.values() for example in subset):
        message = words(example["question"])
        assert not requested & {tuple(message[i : i + 8]) for i in range(len(message) - 7)}, example[
            "question"
        ]


@pytest.mark.skipif("FSGEN_DATA" not in os.environ, reason="FSGEN_DATA names no folder with mmlu_stem")
def test_every_gold_letter_of_the_real_rows_is_right_and_no_other():
    """3,018 questions of eighteen subjects."""
    prompts = mmlu_stem.prompts(
        DatasetConfig(
            task="mmlu_stem", max_new_tokens=1, path=str(Path(os.environ["FSGEN_DATA"], "mmlu_stem"))
        )
    )

    assert len(prompts) == len({prompt.prompt_id for prompt in prompts}) == 3018
    for prompt in prompts:
        message = [mmlu_stem.grade(f"So the answer is ({x}).", prompt.gold).verdict for x in "ABCD"]
        assert message == [R if i == prompt.gold["answer"] else W for i in range(4)]
