"""MMLU-STEM (cais/mmlu, arXiv 2009.03300): multiple choice in nineteen subjects, answered in worked steps.

    Question: Which planet has the shortest year?
    (A) Mars
    (B) Mercury
    (C) Venus
    (D) Earth
    Answer: The nearer a planet is to the sun, the faster it goes round. ... The answer is (B).

Solved examples belong to the question's own subject and were written for this project. A local file has the
hub's columns. Its subject column must be correct; that of some copies is not.
"""

import json
import re
from collections import Counter
from pathlib import Path

from fsgen.config.schema import DatasetConfig
from fsgen.errors import UserError
from fsgen.tasks import sources
from fsgen.tasks.protocol import (
    END_TOKENS,
    NEXT_QUESTION,
    Example,
    Prompt,
    Task,
    Verdict,
    few_shot_prompt,
    judge_answers,
)
from fsgen.tasks.sources import Source

SOURCE = Source("MMLU", "cais/mmlu", "all", {"question": str, "subject": str, "choices": list, "answer": int})
GOLD = ("answer", "choices")
ANSWER = r"(?i:answer is)\W*(?:(?:boxed|text|textbf)\W*)*[A-Da-d](?!\w)[^\n]*"
SYSTEM = "Think step by step and end with a line that reads 'The answer is (X).', X being the letter."
LETTERS = "ABCD"
EXEMPLARS = Path(__file__).parent / "exemplars" / "mmlu_stem.json"
SUBJECTS = (
    "abstract_algebra", "anatomy", "astronomy", "college_biology", "college_chemistry",
    "college_computer_science", "college_mathematics", "college_physics", "computer_security",
    "conceptual_physics", "electrical_engineering", "elementary_mathematics", "high_school_biology",
    "high_school_chemistry", "high_school_computer_science", "high_school_mathematics",
    "high_school_physics", "high_school_statistics", "machine_learning",
)  # fmt: skip

_MARKUP = (
    r"[\s*_$\"'`:\\{]*(?:boxed|text|textbf|mathrm|mathbf)?[\s*_$\"'`\\{]*(?:text|textbf|mathrm)?[\s*_{\"'`]*"
)
_LETTER = rf"{_MARKUP}\(?(?P<letter>[A-Za-z])\)?+(?![\w'’])(?!-\w)"
# one letter that no second one follows: "(A) and (C)" states neither
_STATED = re.compile(
    rf"answer is{_LETTER}(?![\s*_$}}]*(?:and|or|,|/|&)[\s*_$]*\(?[A-D]\)?(?![\w']))", re.IGNORECASE
)
_NAMED = re.compile(
    rf"(?:answer|choice|option)s?(?:\s+(?:is|are|would be|must be|should be|=))?\s*[-=:]*{_LETTER}|"
    r"\\boxed\s*\{[\s\\]*(?:text|textbf|mathrm)?\{?\(?(?P<boxed>[A-D])\)?\}*|"
    r"(?<!\w)\((?P<bracketed>(?-i:[A-D]))\)|^[\s*_$\"'`]*(?P<alone>[A-D])[\s*_$\"'`.):]*$",
    re.MULTILINE | re.IGNORECASE,
)


def prompts(dataset: DatasetConfig) -> list[Prompt]:
    """A prompt for every question of the nineteen subjects, numbered within its subject.

    Raises UserError if the rows cannot be read, none belongs to these subjects, a row does not have four
    choices and one of them as its answer, or there are fewer examples than `shots`.
    """
    examples = _examples_by_subject(dataset.shots)
    counts: Counter = Counter()
    prompts = []
    for row in _read_rows(dataset):
        subject = row["subject"]
        prompts.append(_prompt(f"mmlu_stem-{subject}-{counts[subject]:04d}", row, examples[subject]))
        counts[subject] += 1
    return prompts


def _examples_by_subject(shots: int) -> dict[str, list[Example]]:
    """The first `shots` solved examples of every subject."""
    solved = json.loads(EXEMPLARS.read_text())
    available = min(map(len, solved.values()))
    if shots > available:
        raise UserError(f"MMLU-STEM has {available} solved examples a subject, got {shots} shots; lower it.")
    return {subject: [_example(row) for row in rows[:shots]] for subject, rows in solved.items()}


def _example(row: dict) -> Example:
    return Example(_question(row), f"{row['reasoning']} The answer is ({LETTERS[row['answer']]}).")


def _read_rows(dataset: DatasetConfig) -> list[dict]:
    """The rows of the nineteen subjects."""
    rows = sources.read(SOURCE, dataset.split, dataset.path)
    rows = [row for row in rows if row["subject"] in SUBJECTS]
    if not rows:
        raise UserError(
            "MMLU-STEM should find subjects such as 'astronomy' in the column 'subject', got none; "
            "take the hub's rows."
        )
    return rows


def _prompt(prompt_id: str, row: dict, examples: list[Example]) -> Prompt:
    if len(row["choices"]) != 4 or row["answer"] not in range(4):
        raise UserError(
            f"MMLU's row {prompt_id} should have four choices and an answer from 0 to 3, got "
            f"{len(row['choices'])} and {row['answer']}; correct it."
        )
    gold = {column: row[column] for column in GOLD}
    return few_shot_prompt(prompt_id, SYSTEM, examples, _question(row), gold)


def _question(row: dict) -> str:
    """The question with its lettered choices."""
    choices = (f"({letter}) {choice}" for letter, choice in zip(LETTERS, row["choices"], strict=True))
    return "\n".join([row["question"].strip(), *choices])


def grade(text: str, gold: dict) -> Verdict:
    """Strict: the letter of the last "The answer is (X)". Flexible: the most likely letter.

    That is the last letter named as answer, choice or option, in a box, in brackets or alone on a line;
    otherwise the choice whose words the last line repeats, if it is the only one.
    """
    expected = LETTERS[gold["answer"]]
    strict = _letter_of(_last_match(_STATED, text))
    flexible = strict or _letter_of(_last_match(_NAMED, text)) or _repeated_choice(text, gold["choices"])
    return judge_answers(strict, flexible, lambda letter: letter == expected)


def _last_match(pattern: re.Pattern, text: str) -> re.Match | None:
    match = None
    for match in pattern.finditer(text):  # noqa: B007, only the last match is needed
        pass
    return match


def _letter_of(match: re.Match | None) -> str | None:
    """The letter of a match if it is a choice. A small one counts only in brackets, since "a" is a word."""
    if match is None:
        return None
    group = next(name for name, letter in match.groupdict().items() if letter)
    letter, before = match[group], match.string[: match.start(group)]
    if letter.upper() not in LETTERS or (letter.islower() and not before.endswith("(")):
        return None
    return letter.upper()


def _repeated_choice(text: str, choices: list[str]) -> str | None:
    """The only choice that the last line repeats; a choice inside a longer repeated one does not count."""
    last_line = text.strip().rpartition("\n")[2].casefold()
    spans = {letter: _find_spans(choice, last_line) for letter, choice in zip(LETTERS, choices, strict=True)}
    repeated = [letter for letter in spans if _stands_alone(letter, spans)]
    return repeated[0] if len(repeated) == 1 else None


def _find_spans(choice: str, line: str) -> list[tuple[int, int]]:
    """Start and end of every place where the line holds the choice as whole words."""
    words = re.escape(choice.strip().rstrip(".").casefold())
    return [match.span() for match in re.finditer(rf"(?<!\w){words}(?!\w)", line)] if words else []


def _stands_alone(letter: str, spans: dict[str, list[tuple[int, int]]]) -> bool:
    """Whether a choice stands somewhere outside every longer choice."""
    others = [span for other in spans if other != letter for span in spans[other]]
    return any(not any(_is_inside(span, other) for other in others) for span in spans[letter])


def _is_inside(inner: tuple[int, int], outer: tuple[int, int]) -> bool:
    """Whether a span lies in a longer one."""
    is_covered = outer[0] <= inner[0] and inner[1] <= outer[1]
    return is_covered and outer[1] - outer[0] > inner[1] - inner[0]


TASK = Task(
    prompts=prompts,
    grade=grade,
    gold=GOLD,
    stops=(NEXT_QUESTION,),
    stop_tokens=END_TOKENS,
    answer=ANSWER,
    test_prompts=3018,
    prompt_tokens=82,
)
