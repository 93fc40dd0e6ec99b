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
from fsgen.tasks.protocol import (
    END_TOKENS,
    NEXT_QUESTION,
    Example,
    Judgement,
    Prompt,
    Task,
    Verdict,
    few_shot_prompt,
    prefer_strict,
)
from fsgen.tasks.sources import Source

SOURCE = Source("MATH-500", "HuggingFaceH4/MATH-500", None, {"problem": str, "answer": str})
TRAIN = Source(
    "MATH", "DigitalLearningGmbH/MATH-lighteval", None, {"problem": str, "type": str, "solution": str}
)
_BRACED = r"\{[^{}]*\}"
for _ in range(3):  # a box may hold a matrix of fractions of roots, over several lines
    _BRACED = rf"\{{(?:[^{{}}]|{_BRACED})*\}}"
ANSWER = rf"\\(?:boxed|fbox)\s*(?:{_BRACED})?[^\n]*"
SYSTEM = r"Solve the problem step by step and put the final answer in \boxed{}."
MAX_EXAMPLE_CHARACTERS = 300  # of an example's problem, and of its solution
MAX_ANSWER_CHARACTERS = 400  # of an answer that is compared; the longest of MATH-500 has 53


def prompts(dataset: DatasetConfig) -> list[Prompt]:
    """A prompt for every row of the split, in its order.

    Raises UserError if the hub or the file cannot be read, a row lacks a problem or an answer, or
    there are too few solved problems to show.
    """
    rows = sources.read(SOURCE, dataset.split, dataset.path)
    examples = _examples(dataset, excluded={row["problem"].strip() for row in rows})
    return [
        few_shot_prompt(
            f"math500-{dataset.split}-{i:04d}", SYSTEM, examples, row["problem"], {"answer": row["answer"]}
        )
        for i, row in enumerate(rows)
    ]


def _examples(dataset: DatasetConfig, excluded: set[str]) -> list[Example]:
    """The first `shots` short rows of MATH's train split, one of each type in turn, none of `excluded`."""
    if not dataset.shots:
        return []
    sources.refuse_single_file(dataset)
    by_type: dict[str, list[Example]] = {}
    for row in sources.read(TRAIN, "train", dataset.path):
        if _is_short(row) and row["problem"].strip() not in excluded:
            by_type.setdefault(row["type"], []).append(Example(row["problem"], row["solution"]))
    in_turn = [example for example in chain(*zip_longest(*by_type.values())) if example]
    if len(in_turn) < dataset.shots:
        raise UserError(
            f"MATH's split 'train' should hold {dataset.shots} short solved problems to show, got "
            f"{len(in_turn)}; lower shots."
        )
    return in_turn[: dataset.shots]


def _is_short(row: dict) -> bool:
    """Whether a row is short, has one box and needs no drawing."""
    problem, solution = row["problem"], row["solution"]
    if max(len(problem), len(solution)) > MAX_EXAMPLE_CHARACTERS:
        return False
    return solution.count(r"\boxed{") == 1 and "[asy]" not in problem + solution


def grade(text: str, gold: dict) -> Verdict:
    """Strict: the last box. Flexible: without a box, what follows `answer is`, or the last formula or number.

    Lists have no order, tuples do; brackets, bases and every digit count; units may be left out.
    Without an answer the verdict is `unknown`. It is `unknown` with a `detail` if the answer was too long to
    compare, the comparison took too long, or Math-Verify failed.
    """
    box = _last_box(text)
    answer = box or _likeliest_answer(text)
    if answer is None:
        return Verdict("unknown", None, "unknown", "unknown")
    flexible, detail = _judge(answer, gold["answer"])
    strict: Judgement = flexible if box else "unknown"
    return Verdict(prefer_strict(strict, flexible), answer, strict, flexible, detail=detail)


_BOX = re.compile(r"\\(?:boxed|fbox)\s*(?:\{|(?P<bare>[^\s{}$\\]+))")


def _last_box(text: str) -> str | None:
    r"""The content of the last complete box, \boxed{5} or \boxed 5; an open or empty box does not count."""
    for box in reversed(list(_BOX.finditer(text))):
        content = (box["bare"] or _content_of_braces(text, box.end())).strip()
        if content:
            return content
    return None


def _content_of_braces(text: str, start: int) -> str:
    """The text from `start` to the brace that closes the one before `start`; empty if none does."""
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
_CANDIDATE = re.compile(rf"{_FORMULAS}|{_NUMBER}", re.DOTALL)
_DELIMITER = re.compile(r"(?<!\\)(?:\$+|\\[()\[\]])")
_ANNOUNCED = re.compile(
    r"(?is)\banswers?\b[^.\n:]{0,60}?(?:\bis\b|\bare\b|[:=])[\s*:]*"
    r"(?=(?P<rest>\\\[.+?\\\]|\$\$.+?\$\$|[^\n]+))"  # a displayed formula may take several lines
)
_LEAD = re.compile(r"\A(?:[a-z]{3,}[\s,:]+)+(?=[-(\\$\d])")  # `the answer is therefore 5`


def _likeliest_answer(text: str) -> str | None:
    """The announced answer, or else the last formula or number."""
    announcements = list(_ANNOUNCED.finditer(text))
    if announcements:
        answer = _announced_answer(announcements[-1]["rest"])
    else:
        candidates = _CANDIDATE.findall(text)
        answer = candidates[-1] if candidates else ""
    return _DELIMITER.sub("", answer).strip(" \n*.,") or None


def _announced_answer(rest: str) -> str:
    """The first formulas after an announcement, or else its sentence."""
    rest = _LEAD.sub("", rest)
    formulas = re.search(_FORMULAS, rest, re.DOTALL)
    return formulas.group() if formulas else re.split(r"\.(?:\s|$)", rest)[0]


def _judge(answer: str, gold: str) -> tuple[Judgement, str | None]:
    """The judgement of an answer and, if that is `unknown`, the reason."""
    from math_verify.errors import TimeoutException  # half a second to import, and only grading needs it

    if len(answer) > MAX_ANSWER_CHARACTERS:
        limit = MAX_ANSWER_CHARACTERS
        return "unknown", f"an answer of {len(answer)} characters, of which at most {limit} are compared"
    try:
        return "right" if math_equivalence.is_equivalent(answer, gold) else "wrong", None
    except TimeoutException:
        return "unknown", "timeout"
    except Exception as error:  # SymPy's errors share no class
        return "unknown", f"{type(error).__name__}: {error}"


TASK = Task(
    prompts=prompts,
    grade=grade,
    gold=("answer",),
    stops=(NEXT_QUESTION,),
    stop_tokens=END_TOKENS,
    answer=ANSWER,
    limit_s=30,
    test_prompts=500,
    prompt_tokens=73,
)
