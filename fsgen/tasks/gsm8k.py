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
from fsgen.tasks.protocol import END_TOKENS, Judgement, Prompt, Verdict, ask, ask_plainly, prefer_strict
from fsgen.tasks.sources import Source

SOURCE = Source("GSM8K", "openai/gsm8k", "main", {"question": str, "answer": str})
GOLD = ("answer",)
STOPS = ("\nQuestion:",)
STOP_TOKENS = END_TOKENS
ANSWER = r"####[^\n]*"
SYSTEM = "Solve the problem step by step and end with a line that reads '#### <number>'."

_PLAIN = r"(?:(?:[0-9]{1,3}(?:\{?,\}?[0-9]{3})+(?![0-9])|[0-9]+)(?:\.[0-9]+)?|(?<![\w.])\.[0-9]+)"
# Thousands take commas (or LaTeX's {,}) and a/b is one number. The digits of a word (m2) or of an
# exponent (^2, ^{2}) are none, and nothing begins in the middle of a number.
NUMBER = re.compile(rf"(?<![^\W_])(?<!\^)(?<!\^\{{){_PLAIN}(?:/(?=[1-9]){_PLAIN})?")
# What may stand between the mark and its number, and what shows that the number is not the answer:
# an operation still to be done (#### 9 * 2 = 18) or the number of a heading (#### 2. Add them up).
_LEAD = re.compile(r"[^\w#]*(?:(?:the )?(?:final )?answer(?: is)?[^\w#]*)?", re.IGNORECASE)
_GOES_ON = re.compile(r"[ \t]*[-+*/×÷^x\u2212][ \t]*[$(]*[0-9]|[.):]\**[ \t]+\S")
_MINUS = ("-", "\u2212", "\u2013")


def prompts(dataset: DatasetConfig) -> list[Prompt]:
    """A prompt for every row of the split, in its order.

    Raises Complaint where the hub or the file cannot be read, or a row lacks a question or an answer.
    """
    shown = [(row["question"], row["answer"]) for row in _exemplars(dataset)]
    asked = sources.read(SOURCE, dataset.split, dataset.path)
    return [_prompt(f"gsm8k-{dataset.split}-{i:04d}", row, shown) for i, row in enumerate(asked)]


def _prompt(prompt_id: str, row: dict, shown: list[tuple[str, str]]) -> Prompt:
    question = row["question"]
    gold = {"answer": row["answer"]}
    return Prompt(prompt_id, ask(SYSTEM, shown, question), ask_plainly(shown, question), gold)


def _exemplars(dataset: DatasetConfig) -> list[dict]:
    """The first `shots` rows of the train split, without the calculator's annotations (<<...>>)."""
    if not dataset.shots:
        return []
    if dataset.split == "train":
        raise UserError(
            f"GSM8K cannot show {dataset.shots} solved problems of the split it asks about; "
            "set shots to 0 or split to 'test'."
        )
    sources.refuse_single_file(dataset)
    found = sources.read(SOURCE, "train", dataset.path)[: dataset.shots]
    if len(found) < dataset.shots:
        raise UserError(
            f"GSM8K's split 'train' holds {len(found)} rows, {dataset.shots} shots asked; lower shots."
        )
    return [row | {"answer": re.sub(r"<<[^>]*>>", "", row["answer"])} for row in found]


def grade(text: str, gold: dict) -> Verdict:
    """Strict: the number after the last `####`. Flexible: the last number. Strict counts where it finds one.

    Numbers are compared exactly, so 18.00 is 18; without any number the verdict is `unknown`.
    Raises Complaint where the row's own answer holds no number.
    """
    expected = _after_mark(gold["answer"]) or _last(gold["answer"])
    if expected is None:
        raise UserError(
            f"GSM8K's column 'answer' should end in '#### <number>', got {gold['answer'][-40:]!r}; mend it."
        )
    strict, flexible = _after_mark(text), _last(text)
    judged = _judge(strict, expected), _judge(flexible, expected)
    return Verdict(prefer_strict(*judged), strict or flexible, *judged)


def _after_mark(text: str) -> str | None:
    _, mark, rest = text.rpartition("####")
    found = NUMBER.search(rest) if mark else None
    if found is None or not _LEAD.fullmatch(rest, 0, found.start()) or _GOES_ON.match(rest, found.end()):
        return None
    return _spelled(found)


def _last(text: str) -> str | None:
    found = None
    for found in NUMBER.finditer(text):  # noqa: B007, the last one is wanted
        pass
    return _spelled(found) if found else None


def _spelled(found: re.Match) -> str:
    """The number with its sign and without commas: -70000, 18.00, 1/2."""
    sign = "-" if _is_negative(found.string[: found.start()]) else ""
    return sign + re.sub(r"[{},]", "", found.group())


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


def _judge(said: str | None, gold: str) -> Judgement:
    if said is None:
        return "unknown"
    return "right" if _value(said) == _value(gold) else "wrong"


def _value(spelled: str) -> Fraction:
    """Exact; by way of Decimal, which reads a run of digits of any length."""
    top, _, bottom = spelled.partition("/")
    return Fraction(Decimal(top)) / Fraction(Decimal(bottom or "1"))
