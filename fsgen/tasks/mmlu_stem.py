"""MMLU-STEM (cais/mmlu, arXiv 2009.03300): multiple choice in nineteen subjects, answered in worked steps.

    Question: Which planet has the shortest year?
    (A) Mars
    (B) Mercury
    (C) Venus
    (D) Earth
    Answer: The nearer a planet is to the sun, the faster it goes round. ... The answer is (B).

Solved examples are of the question's own subject and were written for this project. A local file has the
hub's columns; its subject column has to be right, which not every copy's is.
"""

import json
import re
from collections import Counter
from pathlib import Path

from fsgen.config.schema import DatasetConfig
from fsgen.errors import UserError
from fsgen.tasks import sources
from fsgen.tasks.protocol import END_TOKENS, Prompt, Verdict, ask, ask_plainly, compare, prefer_strict
from fsgen.tasks.sources import Source

SOURCE = Source("MMLU", "cais/mmlu", "all", {"question": str, "subject": str, "choices": list, "answer": int})
GOLD = ("answer", "choices")
STOPS = ("\nQuestion:",)
STOP_TOKENS = END_TOKENS
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

_DRESS = (
    r"[\s*_$\"'`:\\{]*(?:boxed|text|textbf|mathrm|mathbf)?[\s*_$\"'`\\{]*(?:text|textbf|mathrm)?[\s*_{\"'`]*"
)
_LETTER = rf"{_DRESS}\(?(?P<letter>[A-Za-z])\)?+(?![\w'’])(?!-\w)"
# one letter and no second one beside it: "(A) and (C)" says neither
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

    Raises Complaint where the rows cannot be read, none is of these subjects, a row has not four choices
    and one of them as its answer, or more examples are asked than there are.
    """
    shown = json.loads(EXEMPLARS.read_text())
    most = min(map(len, shown.values()))
    if dataset.shots > most:
        raise UserError(
            f"MMLU-STEM has {most} solved examples a subject, got {dataset.shots} shots; lower it."
        )
    asked = [row for row in sources.read(SOURCE, dataset.split, dataset.path) if row["subject"] in SUBJECTS]
    if not asked:
        raise UserError(
            "MMLU-STEM should find subjects such as 'astronomy' in the column 'subject', got none; "
            "take the hub's rows."
        )
    seen: Counter = Counter()
    found = []
    for row in asked:
        name = f"mmlu_stem-{row['subject']}-{seen[row['subject']]:04d}"
        seen[row["subject"]] += 1
        found.append(_prompt(name, row, shown[row["subject"]][: dataset.shots]))
    return found


def _prompt(name: str, row: dict, shown: list[dict]) -> Prompt:
    if len(row["choices"]) != 4 or row["answer"] not in range(4):
        raise UserError(
            f"MMLU's row {name} should have four choices and an answer from 0 to 3, got "
            f"{len(row['choices'])} and {row['answer']}; mend it."
        )
    examples = [(_ask(e), f"{e['reasoning']} The answer is ({LETTERS[e['answer']]}).") for e in shown]
    gold = {column: row[column] for column in GOLD}
    return Prompt(name, ask(SYSTEM, examples, _ask(row)), ask_plainly(examples, _ask(row)), gold)


def _ask(row: dict) -> str:
    choices = (f"({letter}) {choice}" for letter, choice in zip(LETTERS, row["choices"], strict=True))
    return "\n".join([row["question"].strip(), *choices])


def grade(text: str, gold: dict) -> Verdict:
    """Strict: the letter of the last "The answer is (X)". Flexible: the letter that the text comes to.

    That is the last one named as answer, choice or option, in a box, in brackets or alone on a line;
    else the choice whose words the last line repeats, if it is one alone.
    """
    expected = LETTERS[gold["answer"]]
    strict = _letter_of(_last(_STATED, text))
    flexible = strict or _letter_of(_last(_NAMED, text)) or _repeated(text, gold["choices"])
    judged = compare(strict, expected), compare(flexible, expected)
    return Verdict(prefer_strict(*judged), strict or flexible, *judged)


def _last(pattern: re.Pattern, text: str) -> re.Match | None:
    found = None
    for found in pattern.finditer(text):  # noqa: B007, the last one is wanted
        pass
    return found


def _letter_of(found: re.Match | None) -> str | None:
    """The letter of a match, if it is a choice; a small one only in brackets, for "a" is a word."""
    if found is None:
        return None
    name = next(name for name, said in found.groupdict().items() if said)
    said, before = found[name], found.string[: found.start(name)]
    if said.upper() not in LETTERS or (said.islower() and not before.endswith("(")):
        return None
    return said.upper()


def _repeated(text: str, choices: list[str]) -> str | None:
    """The one choice that the last line repeats; within a longer choice a shorter one is not said."""
    last = text.strip().rpartition("\n")[2].casefold()
    spelt = [re.escape(choice.strip().rstrip(".").casefold()) for choice in choices]
    spans = {
        letter: [found.span() for found in re.finditer(rf"(?<!\w){choice}(?!\w)", last) if choice]
        for letter, choice in zip(LETTERS, spelt, strict=True)
    }
    said = [
        letter for letter, own in spans.items() if any(not _is_within(span, letter, spans) for span in own)
    ]
    return said[0] if len(said) == 1 else None


def _is_within(span: tuple[int, int], letter: str, spans: dict[str, list[tuple[int, int]]]) -> bool:
    others = [wide for other, own in spans.items() if other != letter for wide in own]
    return any(
        start <= span[0] and span[1] <= end and end - start > span[1] - span[0] for start, end in others
    )
