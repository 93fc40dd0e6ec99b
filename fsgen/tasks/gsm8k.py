"""GSM8K (openai/gsm8k, arXiv 2110.14168): grade-school word problems answered in worked steps.

    Question: Natalia sold clips to 48 of her friends in April, and then she sold half as many ...
    Answer: Natalia sold 48/2 = 24 clips in May. ...
    #### 72

The rows come from the hub or from local files with its columns, `question` and `answer`.
"""

import json
import re
from decimal import Decimal
from fractions import Fraction
from pathlib import Path

import polars as pl

from fsgen.settings import Dataset
from fsgen.tasks.verdict import Judgement, Verdict
from fsgen.typed import Complaint

HUB = ("openai/gsm8k", "main")
COLUMNS = ("question", "answer")
GOLD = ("answer",)
STOPS = ("\nQuestion:",)
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


def load(dataset: Dataset) -> list[dict]:
    """Rows of the split with the hub's columns and `prompt_id`, in the split's order.

    Raises Complaint where the hub or the file cannot be read, or a row lacks a question or an answer.
    """
    rows = _read_split(dataset, dataset.split)
    return [row | {"prompt_id": f"gsm8k-{dataset.split}-{i:04d}"} for i, row in enumerate(rows)]


def exemplars(dataset: Dataset) -> list[dict]:
    """The first `shots` rows of the train split, without the calculator's annotations (<<...>>)."""
    if not dataset.shots:
        return []
    if dataset.split == "train":
        raise Complaint(
            f"GSM8K cannot show {dataset.shots} solved problems of the split it asks about; "
            "set shots to 0 or split to 'test'."
        )
    rows = _read_split(dataset, "train")[: dataset.shots]
    if len(rows) < dataset.shots:
        raise Complaint(
            f"GSM8K's split 'train' holds {len(rows)} rows, {dataset.shots} shots asked; lower shots."
        )
    return [row | {"answer": re.sub(r"<<[^>]*>>", "", row["answer"])} for row in rows]


def messages(row: dict, shown: list[dict]) -> list[dict]:
    """The conversation that a chat template renders: exemplars are earlier turns."""
    turns = [{"role": "system", "content": SYSTEM}]
    for example in shown:
        turns += [
            {"role": "user", "content": example["question"]},
            {"role": "assistant", "content": example["answer"]},
        ]
    return [*turns, {"role": "user", "content": row["question"]}]


def plain(row: dict, shown: list[dict]) -> str:
    """Question-and-answer blocks that end where the answer is to begin."""
    blocks = [f"Question: {e['question']}\nAnswer: {e['answer']}" for e in shown]
    return "\n\n".join([*blocks, f"Question: {row['question']}\nAnswer:"])


def grade(text: str, row: dict) -> Verdict:
    """Strict: the number after the last `####`. Flexible: the last number. Strict counts where it finds one.

    Numbers are compared exactly, so 18.00 is 18; without any number the verdict is `unknown`.
    Raises Complaint where the row's own answer holds no number.
    """
    gold = _after_mark(row["answer"]) or _last(row["answer"])
    if gold is None:
        raise Complaint(
            f"GSM8K's column 'answer' should end in '#### <number>', got {row['answer'][-40:]!r}; mend it."
        )
    strict, flexible = _after_mark(text), _last(text)
    said = strict or flexible
    return Verdict(_judge(said, gold), said, _judge(strict, gold), _judge(flexible, gold))


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


def _read_split(dataset: Dataset, split: str) -> list[dict]:
    rows = _read_hub(split) if dataset.path is None else _read_local(Path(dataset.path), split, dataset.shots)
    where = f"GSM8K's split '{split}' ({dataset.path or HUB[0]})"
    if not rows:
        raise Complaint(f"{where} should hold problems, got no row; complete it or name another split.")
    for i, row in enumerate(rows):
        for column in COLUMNS:
            if not isinstance(row.get(column), str):
                raise Complaint(
                    f"{where} should have text in the column '{column}', got none in row {i}, "
                    f"which has {', '.join(sorted(row)) or 'no column'}; fill the columns that the hub names."
                )
    return [{column: row[column] for column in COLUMNS} for row in rows]


def _read_local(path: Path, split: str, shots: int) -> list[dict]:
    """Rows of `<split>.jsonl` or `.parquet` in a folder, or of a single file, which has no train split."""
    if path.is_file() and shots:
        raise Complaint(
            f"{path} should be a folder that also holds train.jsonl, got a single file with {shots} shots; "
            "name a folder or set shots to 0."
        )
    files = [path] if path.is_file() else [path / f"{split}.jsonl", path / f"{split}.parquet"]
    file = next((file for file in files if file.is_file()), None)
    if file is None:
        raise Complaint(
            f"{path} should hold {split}.jsonl or {split}.parquet, got neither; put the rows there."
        )
    if file.suffix == ".parquet":
        return _read_parquet(file)
    with file.open("rb") as lines:
        return [_read_line(file, i, line) for i, line in enumerate(lines, 1) if line.strip()]


def _read_parquet(file: Path) -> list[dict]:
    try:
        return pl.read_parquet(file).to_dicts()
    except (OSError, pl.exceptions.PolarsError) as error:
        raise Complaint(
            f"{file} should be a whole Parquet file, got a broken one; fetch it again."
        ) from error


def _read_line(file: Path, number: int, line: bytes) -> dict:
    try:
        row = json.loads(line)
    except ValueError:
        row = None
    if not isinstance(row, dict):
        raise Complaint(
            f"{file}, line {number}, should be a JSON object, got {line[:40]!r}; fetch the file again."
        )
    return row


def _read_hub(split: str) -> list[dict]:
    from datasets import load_dataset  # seconds to import, and only this path needs it

    try:
        return load_dataset(*HUB, split=split).to_list()
    except Exception as error:  # offline, gated, unknown split: the client's errors share no class
        raise Complaint(
            f"'{HUB[0]}', split '{split}', could not be loaded from the hub "
            f"({type(error).__name__}: {str(error).splitlines()[0] if str(error) else 'no reason given'}); "
            "go online, ask for access, or set the dataset's 'path' to a local copy."
        ) from error
