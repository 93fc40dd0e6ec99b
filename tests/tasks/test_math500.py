"""MATH-500: which formula a text gives, whether it is the gold one, and what a model is asked."""

import json
import os
import re
from pathlib import Path

import pytest

from fsgen.config.schema import DatasetConfig
from fsgen.errors import UserError
from fsgen.tasks import math500
from fsgen.tasks.graders import math_equivalence

R, W, U = "right", "wrong", "unknown"

# answer as boxed, gold, judgement
BOXED = [
    # numbers
    ("7", "7", R),
    ("7.0", "7", R),
    ("-7", "7", W),
    ("\u22127", "-7", R),
    ("10,080", "10080", R),
    ("10{,}080", "10,\\!080", R),
    ("1,2", "12", W),
    ("0.5", "\\frac{1}{2}", R),
    ("0.33", "\\frac{1}{3}", W),
    ("1/2", "\\frac12", R),
    ("\\dfrac{1}{2}", "\\frac{1}{2}", R),
    ("\\tfrac{2}{4}", "\\frac{1}{2}", R),
    ("2", "\\frac12", W),
    ("1\\frac{4}{5}", "\\frac{9}{5}", R),
    ("1 4/5", "\\frac{9}{5}", R),
    ("-\\frac{3}{4}", "\\frac{-3}{4}", R),
    ("2\\sqrt{3}", "\\sqrt{12}", R),
    ("2\\sqrt{3}", "3\\sqrt{2}", W),
    ("6 - 5i", "-5i + 6", R),
    ("6 + 5i", "6 - 5i", W),
    ("3.14", "\\pi", W),
    ("\\frac{\\pi}{2}", "\\pi/2", R),
    ("2^{10}", "1024", R),
    ("1.36 \\cdot 10^3", "1360", R),
    ("\\infty", "-\\infty", W),
    # what Math-Verify alone would call equal
    ("0.0000671", ".0000672", W),
    ("0.333333333", "\\frac{1}{3}", W),
    ("5 6", "11", W),
    ("1 4/5", "1", W),
    ("[2,1]", "(2,1)", W),
    ("\\{6,31,-1\\}", "(6,31,-1)", W),
    ("3, 5, 7, 7", "3, 5, 7", W),
    ("2t", "2", W),
    ("2516_{10}", "2516_8", W),
    # and what it alone would not
    ("6 + 9 i", "6+9i", R),
    ("x > 2", "(2,\\infty)", R),
    ("x \\ge 2", "(2,\\infty)", W),
    ("3*sqrt(13)", "3\\sqrt{13}", R),
    # units, money, percent, degrees
    ("5\\text{ cm}", "5", R),
    ("5\\ \\text{cm}^2", "5", R),
    ("\\$18.90", "18.90", R),
    ("18.9", "\\$18.90", R),
    ("50\\%", "50", R),
    ("50\\%", "0.5", R),
    ("50", "50\\%", R),
    ("5\\%", "50\\%", W),
    ("90^\\circ", "90", R),
    ("90^{\\circ}", "90^\\circ", R),
    ("45^\\circ", "90^\\circ", W),
    # bases
    ("2516_8", "2516_8", R),
    ("2516_{8}", "2516_8", R),
    ("2516", "2516_8", W),
    ("2516_7", "2516_8", W),
    # points, intervals, sets and lists
    ("(3, \\frac{\\pi}{2})", "\\left( 3, \\frac{\\pi}{2} \\right)", R),
    ("(\\frac{\\pi}{2}, 3)", "\\left( 3, \\frac{\\pi}{2} \\right)", W),
    ("(1,2)", "(2,1)", W),
    ("[1,2]", "(1,2)", W),
    ("[1,2)", "[1,2]", W),
    ("[-2, 7]", "[-2,7]", R),
    ("x \\in [-2,7]", "[-2,7]", R),
    ("(-\\infty, 2) \\cup (3, \\infty)", "(-\\infty,2)\\cup(3,\\infty)", R),
    ("(3, \\infty) \\cup (-\\infty, 2)", "(-\\infty,2)\\cup(3,\\infty)", R),
    ("(-\\infty, 2)", "(-\\infty,2)\\cup(3,\\infty)", W),
    ("3,2,1", "1,2,3", R),
    ("1, 2", "1,2,3", W),
    ("1,2,2", "1,2,3", W),
    ("\\{1, 2, 3\\}", "1,2,3", R),
    ("1 \\text{ and } -2", "1,-2", R),
    ("\\pm 2", "2,-2", R),
    ("\\begin{pmatrix} 1 \\\\ 2 \\end{pmatrix}", "\\begin{pmatrix} 1 \\\\ 2 \\end{pmatrix}", R),
    ("\\begin{pmatrix} 2 \\\\ 1 \\end{pmatrix}", "\\begin{pmatrix} 1 \\\\ 2 \\end{pmatrix}", W),
    # expressions and equations
    ("(x+1)(x-1)", "x^2 - 1", R),
    ("x^2 + 1", "x^2 - 1", W),
    ("y = 2x + 1", "2x+1", R),
    ("x = 5", "5", R),
    ("5", "x=5", R),
    ("x = 6", "5", W),
    ("y = 2x+1", "y = 2x + 1", R),
    ("p - q", "q - p", W),
    # words
    ("\\text{Evelyn}", "\\text{Evelyn}", R),
    ("Evelyn", "\\text{Evelyn}", R),
    ("\\text{Carla}", "\\text{Evelyn}", W),
    ("\\text{(E)}", "\\text{(E)}", R),
    ("E", "\\text{(E)}", R),
    ("\\text{(A)}", "\\text{(E)}", W),
]  # fmt: skip


@pytest.mark.parametrize(("message", "gold", "verdict"), BOXED)
def test_a_boxed_answer_is_compared_by_its_value(message, gold, verdict):
    """Whatever its spelling; near misses are wrong."""
    result = math500.grade(f"Hence it is $\\boxed{{{message}}}$.", {"answer": gold})

    assert (result.strict, result.flexible, result.verdict) == (verdict, verdict, verdict), result.detail
    assert result.extracted == message


# text, gold, extracted, strict, flexible
TEXTS = [
    ("First \\boxed{3}, no: \\boxed{5}.", "5", "5", R, R),
    ("First \\boxed{3}, no: \\boxed{5}.", "3", "5", W, W),
    ("\\boxed{\\frac{1}{\\sqrt{2}}}", "\\frac{\\sqrt{2}}{2}", "\\frac{1}{\\sqrt{2}}", R, R),
    ("\\boxed 5", "5", "5", R, R),
    ("\\fbox{5}", "5", "5", R, R),
    ("It is \\boxed{5} and then \\boxed{", "5", "5", R, R),
    ("The answer is 5.", "5", "5", U, R),
    ("The answer is $\\frac{1}{2}$.", "0.5", "\\frac{1}{2}", U, R),
    ("The final answer is: **12**", "12", "12", U, R),
    ("The answer is\n\\[\n\\frac{3}{2}\n\\]", "1.5", "\\frac{3}{2}", U, R),
    ("The final answer is:\n\n$$\nx = 5\n$$\nDone.", "5", "x = 5", U, R),
    ("The answers are $x = 1$ and $x = 2$.", "2,1", "x = 1 and x = 2", U, R),
    ("The answer is (C).", "\\text{(C)}", "(C)", U, R),
    ("The answer is therefore 5. Not 6.", "5", "5", U, R),
    ("The pens cost $18.90 and the book $5.", "5", "5", U, R),
    ("\\boxed{\\begin{pmatrix}\n1 \\\\\n2\n\\end{pmatrix}}", "\\begin{pmatrix} 1 \\\\ 2 \\end{pmatrix}",
     "\\begin{pmatrix}\n1 \\\\\n2\n\\end{pmatrix}", R, R),
    ("Thus $x = 3$, so $2x = 6$.", "6", "2x = 6", U, R),
    ("Adding 3 and 4 gives 7", "7", "7", U, R),
    ("Adding 3 and 4 gives 7", "8", "7", U, W),
    ("I cannot solve this.", "5", None, U, U),
    ("", "5", None, U, U),
    ("\\boxed{}", "5", None, U, U),
]  # fmt: skip


@pytest.mark.parametrize(("text", "gold", "extracted", "strict", "flexible"), TEXTS)
def test_a_text_gives_the_answer_a_reader_would_take(text, gold, extracted, strict, flexible):
    """Strict by the last whole box, flexible by what is announced or stands last."""
    result = math500.grade(text, {"answer": gold})

    assert (extracted, strict, flexible) == (result.extracted, result.strict, result.flexible)
    assert result.verdict == (flexible if strict == U else strict)


def test_what_cannot_be_compared_is_unknown_with_the_reason(monkeypatch):
    """A tower of powers ends at the step's limit and leaves no alarm; a page of formula is not tried."""
    import signal

    monkeypatch.setattr(math_equivalence, "STEP_S", 1)
    tower = math500.grade("\\boxed{9^{9^{9^{9}}}}", {"answer": "7"})
    page = math500.grade(f"\\boxed{{{'1+' * 300}1}}", {"answer": "301"})

    assert (tower.verdict, tower.detail) == (U, "timeout")
    assert (page.verdict, page.detail) == (
        U,
        "an answer of 601 characters, of which at most 400 are compared",
    )
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)


@pytest.mark.parametrize(
    ("text", "rest"),
    [
        ("It is \\boxed{5}$. Five eggs.\nMore", "\nMore"),
        ("\\boxed{\\begin{pmatrix}\n\\frac{1}{\\sqrt{2}} \\\\\n2\n\\end{pmatrix}}.$\nMore", "\nMore"),
        ("\\boxed{3} or\n\\boxed{4}\nMore", "\nMore"),
        ("\\boxed 5\nMore", "\nMore"),
    ],
)
def test_the_line_of_the_last_box_closes_the_answer(text, rest):
    """Also where the box itself takes several lines."""
    closed = [match.end() for match in re.finditer(math500.ANSWER, text)]

    assert text[closed[-1] :] == rest


def solved(number: int, kind: str = "Algebra", **other) -> dict:
    row = {"problem": f"What is {number} + 1?", "type": kind, "solution": f"It is $\\boxed{{{number + 1}}}$."}
    return row | {"level": "Level 1"} | other


@pytest.fixture
def school(tmp_path) -> Path:
    """One test problem, and solved ones of which some are no good to show."""
    test = {"problem": "What is 1 + 1?", "answer": "2", "solution": "\\boxed{2}", "unique_id": "a"}
    train = [
        solved(1),  # is asked
        solved(2, solution="No box."),
        solved(3, solution="[asy] \\boxed{4}"),
        solved(4, solution="\\boxed{5}" + " " * 300),
        solved(5),
        solved(6),
        solved(7, "Geometry"),
    ]
    for name, rows in (("test", [test]), ("train", train)):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path


def dataset(path: Path, **given) -> DatasetConfig:
    return DatasetConfig(task="math500", max_new_tokens=64, path=str(path), **given)


def test_short_solved_problems_of_all_types_in_turn_are_shown(school):
    """None that is asked, drawn, unboxed or long; another type before a type's second problem."""
    (prompt,) = math500.prompts(dataset(school, shots=3))
    requested = [turn["content"] for turn in prompt.messages if turn["role"] == "user"]

    assert requested == ["What is 5 + 1?", "What is 7 + 1?", "What is 6 + 1?", "What is 1 + 1?"]
    assert prompt.plain.endswith("\n\nQuestion: What is 1 + 1?\nAnswer:")
    assert (prompt.prompt_id, prompt.gold) == ("math500-test-0000", {"answer": "2"})


def test_too_few_problems_to_show_are_refused(school):
    """The number that there is, and the remedy."""
    with pytest.raises(UserError, match="should hold 4 short solved problems to show, got 3; lower shots"):
        math500.prompts(dataset(school, shots=4))
    with pytest.raises(UserError, match=r"a folder that also holds train\.jsonl"):
        math500.prompts(dataset(school / "test.jsonl", shots=1))


@pytest.mark.long
@pytest.mark.skipif("FSGEN_DATA" not in os.environ, reason="FSGEN_DATA names no folder with math500")
def test_every_gold_answer_of_math_500_is_right_and_its_neighbours_wrong():
    """All 500, boxed and by their worked solutions; three neighbours have the same answer."""
    lines = Path(os.environ["FSGEN_DATA"], "math500", "test.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    equal = []
    for row, other in zip(rows, [*rows[1:], rows[0]], strict=True):
        assert math500.grade(f"\\boxed{{{row['answer']}}}", row).strict == R, row["answer"]
        assert math500.grade(row["solution"], row).strict == R, row["answer"]
        if math500.grade(f"\\boxed{{{other['answer']}}}", row).verdict != W:
            equal.append((row["answer"], other["answer"]))

    assert len(rows) == 500
    assert equal == [("5", "x=5"), ("7", "7"), ("3", "3")]
