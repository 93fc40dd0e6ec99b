"""BIG-Bench Hard (lukaemon/bbh, arXiv 2210.09261): 27 tasks of several kinds, answered in worked steps.

    Question: not ( True ) and ( True ) is
    Answer: not True is False. False and True is False. So the answer is False.

An answer is a choice, a number, one word of a pair, closing brackets or a list of words; its gold says which.
Solved examples belong to the question's own task and were written for this project.
"""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

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

SOURCE = Source("BBH", "lukaemon/bbh", None, {"input": str, "target": str})
ANSWER = r"(?i)answer is[^\n]*"
SYSTEM = "Think step by step and end with a line that reads 'So the answer is <answer>.'"
EXEMPLARS = Path(__file__).parent / "exemplars" / "bbh.json"
SUBTASKS = (
    "boolean_expressions", "causal_judgement", "date_understanding", "disambiguation_qa",
    "dyck_languages", "formal_fallacies", "geometric_shapes", "hyperbaton",
    "logical_deduction_five_objects", "logical_deduction_seven_objects",
    "logical_deduction_three_objects", "movie_recommendation", "multistep_arithmetic_two", "navigate",
    "object_counting", "penguins_in_a_table", "reasoning_about_colored_objects", "ruin_names",
    "salient_translation_error_detection", "snarks", "sports_understanding", "temporal_sequences",
    "tracking_shuffled_objects_five_objects", "tracking_shuffled_objects_seven_objects",
    "tracking_shuffled_objects_three_objects", "web_of_lies", "word_sorting",
)  # fmt: skip

_STATED = re.compile(r"answer is[:\s]*((?:(?!answer is)[^\n])*)", re.IGNORECASE)
_MARKUP = re.compile(r"\\(?:boxed|text|textbf|mathrm)\s*\{|[*$`\"'“”‘’]|\\[()]")
_NUMBER = re.compile(r"[-\u2212]?\d(?:[\d,]*\d)?(?:\.\d+)?")
_CHOICE = re.compile(
    r"\(([A-R])\)|\\boxed\s*\{\s*(?:\\text\{)?\(?([A-R])\)?|"
    r"(?:[Aa]nswer|[Oo]ption|[Cc]hoice)\s*[-:=]?[\s*]*\(?([A-R])\)?(?!\w)|^[\s*]*([A-R])[\s*.]*$",
    re.MULTILINE,
)
_OPPOSITES = (("true", "false"), ("yes", "no"), ("valid", "invalid"))


class AnswerKind(NamedTuple):
    """How answers of one kind are read; both functions give a normal form, or None if they find no answer."""

    read_stated: Callable[[str], str | None]
    """Reads what follows "the answer is", without markup."""
    find_likeliest: Callable[[str], str | None]
    """Finds the most likely answer in a whole text."""


def prompts(dataset: DatasetConfig) -> list[Prompt]:
    """A prompt for every row of the 27 tasks, numbered within its task.

    A local folder holds a file a task. Raises UserError if one is missing, a row lacks its input or
    target, or there are fewer examples than `shots`.
    """
    solved = json.loads(EXEMPLARS.read_text())
    available = min(map(len, solved.values()))
    if dataset.shots > available:
        raise UserError(f"BBH has {available} solved examples a task, got {dataset.shots} shots; lower it.")
    prompts = []
    for subtask in SUBTASKS:
        examples = [_example(row) for row in solved[subtask][: dataset.shots]]
        prompts += _subtask_prompts(subtask, dataset.path, examples)
    return prompts


def _example(row: dict) -> Example:
    return Example(row["input"], f"{row['reasoning']} So the answer is {row['target']}.")


def _subtask_prompts(subtask: str, path: str | None, examples: list[Example]) -> list[Prompt]:
    rows = sources.read(SOURCE._replace(config=subtask), "test", path, stem=subtask)
    return [
        few_shot_prompt(f"bbh-{subtask}-{i:04d}", SYSTEM, examples, row["input"], {"target": row["target"]})
        for i, row in enumerate(rows)
    ]


def grade(text: str, gold: dict) -> Verdict:
    """Strict: what follows the last "the answer is". Flexible: the most likely answer of the gold's kind.

    Case, spaces, commas between words and markup do not matter; the order of words and brackets does.
    """
    kind = KINDS[_kind_name(gold["target"])]
    expected = kind.read_stated(_strip_markup(gold["target"]))
    stated = _STATED.findall(text)
    strict = kind.read_stated(_strip_markup(stated[-1])) if stated else None
    flexible = strict or kind.find_likeliest(text)
    return judge_answers(strict, flexible, lambda answer: answer == expected)


def _kind_name(target: str) -> str:
    if re.fullmatch(r"\([A-R]\)", target):
        return "choice"
    if re.fullmatch(r"-?\d+", target):
        return "number"
    if any(target.lower() in pair for pair in _OPPOSITES):
        return "word"
    return "brackets" if re.fullmatch(r"[\[\](){}<>\s]+", target) else "words"


def _strip_markup(answer: str) -> str:
    """The answer without bold, quotes, and LaTeX's commands with the braces that close them."""
    commands = answer.count("\\boxed") + answer.count("\\text") + answer.count("\\mathrm")
    answer = _MARKUP.sub("", answer).strip().rstrip(".").strip()
    for _ in range(commands):
        answer = answer.removesuffix("}").strip().rstrip(".")
    return answer.strip()


def _last_line(text: str) -> str:
    return text.strip().rpartition("\n")[2]


def _read_choice(answer: str) -> str | None:
    match = re.match(r"\(?([A-Ra-r])\)?(?![\w'])", answer)
    if match is None or (match[1].islower() and not answer.startswith("(")):
        return None
    return f"({match[1].upper()})"


def _find_choice(text: str) -> str | None:
    matches = _CHOICE.findall(text)
    return f"({next(letter for letter in matches[-1] if letter)})" if matches else None


def _read_number(answer: str) -> str | None:
    """The first number, or the first after the last equals sign of an equation."""
    numbers = _NUMBER.findall(answer.rpartition("=")[2])
    return _normalize_number(numbers[0]) if numbers else None


def _find_number(text: str) -> str | None:
    numbers = re.findall(rf"(?<![\w.]){_NUMBER.pattern}", text)
    return _normalize_number(numbers[-1]) if numbers else None


def _normalize_number(number: str) -> str:
    """The number without commas, leading zeros and trailing decimal zeros."""
    whole, _, decimals = number.replace(",", "").replace("\u2212", "-").partition(".")
    decimals = decimals.rstrip("0")
    return f"{int(whole)}.{decimals}" if decimals else str(int(whole))


def _read_word(answer: str) -> str | None:
    pattern = r"(?:that )?(?:it|the argument)?(?: is )?(not |in)?(true|false|yes|no|valid)\b"
    return _resolve_negation(re.match(pattern, answer.lower()))


def _find_word(text: str) -> str | None:
    match = None
    for match in re.finditer(r"\b(not |in)?(true|false|yes|no|valid)\b", _last_line(text).lower()):  # noqa: B007
        pass  # only the last match is needed
    return _resolve_negation(match)


def _resolve_negation(match: re.Match | None) -> str | None:
    """The word of a match; `invalid` for "not valid", `false` for "not true"."""
    if match is None:
        return None
    is_negated, word = bool(match[1]), match[2]
    pair = next(pair for pair in _OPPOSITES if word in pair)
    return pair[1 - pair.index(word)] if is_negated else word


def _read_brackets(answer: str) -> str | None:
    leading = re.match(r"[\[\](){}<>\s,]*", answer)[0]
    return " ".join(re.sub(r"[^\[\](){}<>]", "", leading)) or None


def _find_brackets(text: str) -> str | None:
    runs = re.findall(r"[\[\](){}<>](?:[\[\](){}<>\s,]*[\[\](){}<>])?", _last_line(text))
    return _read_brackets(runs[-1]) if runs else None


def _read_words(answer: str) -> str | None:
    return " ".join(re.split(r"[\s,;]+", answer.lower().strip(" .,;"))) or None


def _find_words(text: str) -> str | None:
    return _read_words(_strip_markup(_last_line(text).rpartition(":")[2]))


KINDS = {
    "choice": AnswerKind(_read_choice, _find_choice),
    "number": AnswerKind(_read_number, _find_number),
    "word": AnswerKind(_read_word, _find_word),
    "brackets": AnswerKind(_read_brackets, _find_brackets),
    "words": AnswerKind(_read_words, _find_words),
}

TASK = Task(
    prompts=prompts,
    grade=grade,
    gold=("target",),
    stops=(NEXT_QUESTION,),
    stop_tokens=END_TOKENS,
    answer=ANSWER,
    test_prompts=6511,
    prompt_tokens=108,
)
