"""GSM8K (openai/gsm8k, arXiv 2110.14168): grade-school word problems answered in worked steps.

    Question: Natalia sold clips to 48 of her friends in April, and then she sold half as many ...
    Answer: Natalia sold 48/2 = 24 clips in May. ...
    #### 72

The rows come from the hub or from local files with its columns, `question` and `answer`.
"""

import re
from decimal import Decimal
from fractions import Fraction

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

SOURCE = Source("GSM8K", "openai/gsm8k", "main", {"question": str, "answer": str})
ANSWER = r"####[^\n]*"
SYSTEM = "Solve the problem step by step and end with a line that reads '#### <number>'."

_UNSIGNED = r"(?:(?:[0-9]{1,3}(?:\{?,\}?[0-9]{3})+(?![0-9])|[0-9]+)(?:\.[0-9]+)?|(?<![\w.])\.[0-9]+)"
# Thousands take commas (or LaTeX's {,}) and a/b is one number. The digits of a word (m2) or of an
# exponent (^2, ^{2}) are none, and nothing begins in the middle of a number.
NUMBER = re.compile(rf"(?<![^\W_])(?<!\^)(?<!\^\{{){_UNSIGNED}(?:/(?=[1-9]){_UNSIGNED})?")
# The text allowed between the mark and its number.
_LEAD = re.compile(r"[^\w#]*(?:(?:the )?(?:final )?answer(?: is)?[^\w#]*)?", re.IGNORECASE)
# What shows that the number is not the answer: an unfinished operation (#### 9 * 2 = 18) or a heading's
# number (#### 2. Add them up).
_CONTINUES = re.compile(r"[ \t]*[-+*/×÷^x\u2212][ \t]*[$(]*[0-9]|[.):]\**[ \t]+\S")
_MINUS = ("-", "\u2212", "\u2013")


def prompts(dataset: DatasetConfig) -> list[Prompt]:
    """A prompt for every row of the split, in its order.

    Raises UserError if the hub or the file cannot be read, or a row lacks a question or an answer.
    """
    examples = _examples(dataset)
    rows = sources.read(SOURCE, dataset.split, dataset.path)
    return [
        few_shot_prompt(
            f"gsm8k-{dataset.split}-{i:04d}", SYSTEM, examples, row["question"], {"answer": row["answer"]}
        )
        for i, row in enumerate(rows)
    ]


def _examples(dataset: DatasetConfig) -> list[Example]:
    """The first `shots` rows of the train split, without the calculator's annotations (<<...>>)."""
    if not dataset.shots:
        return []
    if dataset.split == "train":
        raise UserError(
            f"GSM8K cannot show {dataset.shots} solved problems of the split it asks about; "
            "set shots to 0 or split to 'test'."
        )
    sources.refuse_single_file(dataset)
    rows = sources.read(SOURCE, "train", dataset.path)[: dataset.shots]
    if len(rows) < dataset.shots:
        raise UserError(
            f"GSM8K's split 'train' holds {len(rows)} rows, {dataset.shots} shots asked; lower shots."
        )
    return [Example(row["question"], re.sub(r"<<[^>]*>>", "", row["answer"])) for row in rows]


def grade(text: str, gold: dict) -> Verdict:
    """Strict: the number after the last `####`. Flexible: the last number. Strict counts if it finds one.

    Numbers are compared exactly, so 18.00 is 18; without any number the verdict is `unknown`.
    Raises UserError if the row's own answer holds no number.
    """
    expected = _number_after_mark(gold["answer"]) or _last_number(gold["answer"])
    if expected is None:
        raise UserError(
            f"GSM8K's column 'answer' should end in '#### <number>', got {gold['answer'][-40:]!r}; "
            "correct it."
        )
    strict, flexible = _number_after_mark(text), _last_number(text)
    return judge_answers(strict, flexible, lambda number: _value(number) == _value(expected))


def _number_after_mark(text: str) -> str | None:
    """The number that the last `####` introduces."""
    _, mark, rest = text.rpartition("####")
    match = NUMBER.search(rest) if mark else None
    if match is None or not _LEAD.fullmatch(rest, 0, match.start()) or _CONTINUES.match(rest, match.end()):
        return None
    return _normalize(match)


def _last_number(text: str) -> str | None:
    match = None
    for match in NUMBER.finditer(text):  # noqa: B007, only the last match is needed
        pass
    return _normalize(match) if match else None


def _normalize(match: re.Match) -> str:
    """The number with its sign and without commas: -70000, 18.00, 1/2."""
    sign = "-" if _is_negative(match.string[: match.start()]) else ""
    return sign + re.sub(r"[{},]", "", match.group())


def _is_negative(before: str) -> bool:
    """Whether the text before a number ends in a minus that is a sign: `is -5`, `-$5`, not `8 -5`, `to-5`."""
    before = before.rstrip("\\$£€")
    if not before.endswith(_MINUS):
        return False
    head = before[:-1].rstrip("\\$£€")
    operand = head.rstrip(" \t")
    closes = operand.endswith((")", "]", "}", "%"))
    if head != operand:  # a blank on the left alone: a word does not subtract, a number does
        return not closes and not operand[-1:].isdigit()
    return not closes and not operand[-1:].isalnum() and not operand.endswith(_MINUS)


def _value(number: str) -> Fraction:
    """The exact value; Decimal reads a run of digits of any length."""
    numerator, _, denominator = number.partition("/")
    return Fraction(Decimal(numerator)) / Fraction(Decimal(denominator or "1"))


TASK = Task(
    prompts=prompts,
    grade=grade,
    gold=("answer",),
    stops=(NEXT_QUESTION,),
    stop_tokens=END_TOKENS,
    answer=ANSWER,
    test_prompts=1319,
    prompt_tokens=66,
)
