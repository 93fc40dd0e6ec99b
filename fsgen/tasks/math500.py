"""MATH-500 (HuggingFaceH4/MATH-500, from arXiv 2103.03874): contest problems answered by a formula in a box.

Question: What is the smallest positive cube that is a multiple of 30?
Answer: As 30 has the prime factors 2, 3 and 5, it is $30^3 = \boxed{27000}$.
"""

import re
from itertools import chain, zip_longest

from fsgen.config.schema import DatasetConfig
from fsgen.errors import UserError
from fsgen.tasks import sources
from fsgen.tasks.graders import math_equivalence
from fsgen.tasks.protocol import END_TOKENS, Judgement, Prompt, Verdict, ask, ask_plainly, prefer_strict
from fsgen.tasks.sources import Source

SOURCE = Source("MATH-500", "HuggingFaceH4/MATH-500", None, {"problem": str, "answer": str})
TRAIN = Source(
    "MATH", "DigitalLearningGmbH/MATH-lighteval", None, {"problem": str, "type": str, "solution": str}
)
GOLD = ("answer",)
STOPS = ("\nQuestion:",)
STOP_TOKENS = END_TOKENS
_BRACED = r"\{[^{}]*\}"
for _ in range(3):  # a box may hold a matrix of fractions of roots, over several lines
    _BRACED = rf"\{{(?:[^{{}}]|{_BRACED})*\}}"
ANSWER = rf"\\(?:boxed|fbox)\s*(?:{_BRACED})?[^\n]*"
SYSTEM = r"Solve the problem step by step and put the final answer in \boxed{}."
SHORT = 300  # characters of an exemplar's problem, and of its solution, at most
LONGEST = 400  # characters of an answer that is compared; the longest of MATH-500 has 53
LIMIT_S = 30  # for grading one text


def prompts(dataset: DatasetConfig) -> list[Prompt]:
    """A prompt for every row of the split, in its order.

    Raises Complaint where the hub or the file cannot be read, a row lacks a problem or an answer, or
    there are too few solved problems to show.
    """
    asked = sources.read(SOURCE, dataset.split, dataset.path)
    shown = [(row["problem"], row["solution"]) for row in _exemplars(dataset, asked)]
    return [_prompt(f"math500-{dataset.split}-{i:04d}", row, shown) for i, row in enumerate(asked)]


def _prompt(prompt_id: str, row: dict, shown: list[tuple[str, str]]) -> Prompt:
    problem = row["problem"]
    gold = {"answer": row["answer"]}
    return Prompt(prompt_id, ask(SYSTEM, shown, problem), ask_plainly(shown, problem), gold)


def _exemplars(dataset: DatasetConfig, asked: list[dict]) -> list[dict]:
    """The first `shots` short rows of MATH's train split, one of each type in turn, none that is asked."""
    if not dataset.shots:
        return []
    sources.refuse_single_file(dataset)
    problems = {row["problem"].strip() for row in asked}
    by_type: dict[str, list[dict]] = {}
    for row in sources.read(TRAIN, "train", dataset.path):
        if _is_exemplary(row) and row["problem"].strip() not in problems:
            by_type.setdefault(row["type"], []).append(row)
    found = [row for row in chain(*zip_longest(*by_type.values())) if row][: dataset.shots]
    if len(found) < dataset.shots:
        raise UserError(
            f"MATH's split 'train' should hold {dataset.shots} short solved problems to show, got "
            f"{len(found)}; lower shots."
        )
    return found


def _is_exemplary(row: dict) -> bool:
    """Whether a row is short, has one box and needs no drawing."""
    problem, solution = row["problem"], row["solution"]
    short = max(len(problem), len(solution)) <= SHORT
    return short and solution.count(r"\boxed{") == 1 and "[asy]" not in problem + solution


def grade(text: str, gold: dict) -> Verdict:
    """Strict: the last box. Flexible: without a box, what follows `answer is`, or the last formula or number.

    Lists have no order, tuples have; brackets, bases and every digit count; units need not stand there.
    Without an answer the verdict is `unknown`, and with `detail` where it was too long to compare,
    or took too long, or Math-Verify failed.
    """
    box = _last_box(text)
    said = box or _likeliest(text)
    if said is None:
        return Verdict("unknown", None, "unknown", "unknown")
    flexible, detail = _judge(said, gold["answer"])
    strict: Judgement = flexible if box else "unknown"
    return Verdict(prefer_strict(strict, flexible), said, strict, flexible, detail=detail)


_BOX = re.compile(r"\\(?:boxed|fbox)\s*(?:\{|(?P<bare>[^\s{}$\\]+))")


def _last_box(text: str) -> str | None:
    r"""What the last whole box holds, be it \boxed{5} or \boxed 5; a box left open or empty is none."""
    for box in reversed(list(_BOX.finditer(text))):
        content = (box["bare"] or _braced(text, box.end())).strip()
        if content:
            return content
    return None


def _braced(text: str, start: int) -> str:
    """The text from `start` up to the brace that closes the one before it, if one does."""
    depth = 1
    for token in re.compile(r"\\.|[{}]", re.DOTALL).finditer(text, start):
        depth += {"{": 1, "}": -1}.get(token.group(), 0)
        if depth == 0:
            return text[start : token.start()]
    return ""


_FORMULA = (
    r"(?:\$\$.+?\$\$|(?<!\\)\\\(.+?\\\)|(?<!\\)\\\[.+?\\\]"
    r"|(?<!\\)\$(?!\s*\d[\d.,]*\s+[a-zA-Z]{2})(?:\\.|[^$\n\\])+\$)"  # a dollar before `18.90 and` is money
)
_FORMULAS = rf"{_FORMULA}(?:(?:\s*,|\s*,?\s*\b(?:and|or)\b)\s*{_FORMULA})*"
_NUMBER = r"(?:(?<![\w.)}\]])[-−]\$?)?(?<![A-Za-z\d.^_])\d[\d,]*(?:\.\d+)?(?:/\d+)?%?"
_SOUGHT = re.compile(rf"{_FORMULAS}|{_NUMBER}", re.DOTALL)
_DELIMITER = re.compile(r"(?<!\\)(?:\$+|\\[()\[\]])")
_ANNOUNCED = re.compile(
    r"(?is)\banswers?\b[^.\n:]{0,60}?(?:\bis\b|\bare\b|[:=])[\s*:]*"
    r"(?=(?P<rest>\\\[.+?\\\]|\$\$.+?\$\$|[^\n]+))"  # a displayed formula may take several lines
)
_LEAD = re.compile(r"\A(?:[a-z]{3,}[\s,:]+)+(?=[-(\\$\d])")  # `the answer is therefore 5`


def _likeliest(text: str) -> str | None:
    """What is announced as the answer, or else the last formula or number."""
    found = _SOUGHT.findall(text)[-1:]
    for announced in [*_ANNOUNCED.finditer(text)][-1:]:
        rest = _LEAD.sub("", announced["rest"])
        shown = re.search(_FORMULAS, rest, re.DOTALL)
        found = [shown.group() if shown else re.split(r"\.(?:\s|$)", rest)[0]]
    return (_DELIMITER.sub("", found[0]).strip(" \n*.,") or None) if found else None


def _judge(said: str, gold: str) -> tuple[Judgement, str | None]:
    """The verdict on an answer and, where that is `unknown`, why."""
    from math_verify.errors import TimeoutException  # half a second to import, and only grading needs it

    if len(said) > LONGEST:
        return "unknown", f"an answer of {len(said)} characters, of which at most {LONGEST} are compared"
    try:
        return "right" if math_equivalence.agree(said, gold) else "wrong", None
    except TimeoutException:
        return "unknown", "timeout"
    except Exception as error:  # SymPy's errors share no class
        return "unknown", f"{type(error).__name__}: {error}"
