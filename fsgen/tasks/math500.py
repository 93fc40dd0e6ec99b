r"""MATH-500 (HuggingFaceH4/MATH-500, drawn from arXiv 2103.03874): contest problems answered by a formula in a box.

    Question: What is the smallest positive cube that is a multiple of 30?
    Answer: As 30 has the prime factors 2, 3 and 5, it is $30^3 = \boxed{27000}$.

How an answer is built (list, tuple, interval, union) is compared here, single values by Math-Verify.
"""

import re
from collections.abc import Iterator
from itertools import chain, zip_longest
from pathlib import Path

from fsgen.settings import Dataset
from fsgen.tasks import rows
from fsgen.tasks.rows import Source
from fsgen.tasks.task import END_TOKENS, Judgement, Prompt, Verdict, ask, ask_plainly, prefer_strict
from fsgen.typed import Complaint

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
STEP_S = 5  # of these for each step of Math-Verify, in whole seconds


def prompts(dataset: Dataset) -> list[Prompt]:
    """A prompt for every row of the split, in its order.

    Raises Complaint where the hub or the file cannot be read, a row lacks a problem or an answer, or
    there are too few solved problems to show.
    """
    asked = rows.read(SOURCE, dataset.split, dataset.path)
    shown = [(row["problem"], row["solution"]) for row in _exemplars(dataset, asked)]
    return [_prompt(f"math500-{dataset.split}-{i:04d}", row, shown) for i, row in enumerate(asked)]


def _prompt(prompt_id: str, row: dict, shown: list[tuple[str, str]]) -> Prompt:
    problem = row["problem"]
    gold = {"answer": row["answer"]}
    return Prompt(prompt_id, ask(SYSTEM, shown, problem), ask_plainly(shown, problem), gold)


def _exemplars(dataset: Dataset, asked: list[dict]) -> list[dict]:
    """The first `shots` short rows of MATH's train split, one of each type in turn, none that is asked."""
    if not dataset.shots:
        return []
    if dataset.path is not None and Path(dataset.path).is_file():
        raise Complaint(
            f"{dataset.path} should be a folder that also holds train.jsonl, got a single file with "
            f"{dataset.shots} shots; name a folder or set shots to 0."
        )
    problems = {row["problem"].strip() for row in asked}
    by_type: dict[str, list[dict]] = {}
    for row in rows.read(TRAIN, "train", dataset.path):
        if _is_exemplary(row) and row["problem"].strip() not in problems:
            by_type.setdefault(row["type"], []).append(row)
    found = [row for row in chain(*zip_longest(*by_type.values())) if row][: dataset.shots]
    if len(found) < dataset.shots:
        raise Complaint(
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
_ANNOUNCED = re.compile(r"(?i)\banswers?\b[^.\n:]{0,60}?(?:\bis\b|\bare\b|[:=])[\s*:]*(?=(?P<rest>[^\n]+))")


def _likeliest(text: str) -> str | None:
    """What is announced as the answer, or else the last formula or number."""
    found = _SOUGHT.findall(text)[-1:]
    for announced in [*_ANNOUNCED.finditer(text)][-1:]:
        rest = announced["rest"]
        formulas = re.search(_FORMULAS, rest)
        found = [formulas.group() if formulas else re.split(r"\.(?:\s|$)", rest)[0]]
    return (_DELIMITER.sub("", found[0]).strip(" \n*.,") or None) if found else None


def _judge(said: str, gold: str) -> tuple[Judgement, str | None]:
    """The verdict on an answer and, where that is `unknown`, why."""
    from math_verify.errors import TimeoutException  # half a second to import, and only grading needs it

    if len(said) > LONGEST:
        return "unknown", f"an answer of {len(said)} characters, of which at most {LONGEST} are compared"
    try:
        return "right" if _agree(said, gold) else "wrong", None
    except TimeoutException:
        return "unknown", "timeout"
    except Exception as error:  # SymPy's errors share no class
        return "unknown", f"{type(error).__name__}: {error}"


def _agree(said: str, gold: str) -> bool:
    if re.search(r"\\(?:text|mbox|math)", gold) and _word(gold):
        return _word(said) == _word(gold)
    said, gold = _respell(said), _respell(gold)
    return said == gold or _is_same(said, gold)


def _word(text: str) -> str:
    r"""An answer in words without its dress: e for \text{(E)}; empty where it says more than words."""
    bare = re.sub(r"\\(?:text\w*|mbox|math\w+)|\\[ ,]|[{}().:*\s]", "", text).casefold()
    return bare if bare.isalpha() else ""


def _ratio(decimal: re.Match) -> str:
    """A decimal as a fraction, so that all its digits count."""
    return rf"(\frac{{{int(decimal[1] + decimal[2])}}}{{1{'0' * len(decimal[2])}}})"


_TEXT = r"\\(?:text\w*|mbox|math(?:rm|bf|it|sf))\s*"
_POWER = r"(?:\s*\^\s*(?:\d|\{\d\}))?"
# What is written in several ways, in the order in which it is made one.
_SPELLINGS = [
    (re.compile(pattern), spelling)
    for pattern, spelling in [
        (r"[−–]", "-"),
        (r"∞", r"\\infty "),
        (r"∪", r"\\cup "),
        (r"\*\*", "^"),
        (r"\*", r"\\cdot "),
        (r"(?<![\\a-zA-Z])pi(?![a-zA-Z])", r"\\pi "),
        (r"(?:√|\\?sqrt)\s*\(([^()]*)\)|(?:√|(?<!\\)sqrt)\s*(\d+)", r"\\sqrt{\1\2}"),
        (r"(?<!\\)\\(?:left|right|[bB]igg?[lr]?|displaystyle)(?![a-zA-Z])", ""),
        (r"(?<=\d)(?:\{,\}|,?\\[,!])\s*(?=\d{3}(?!\d))", ""),  # thousands
        (r"(?<!\\)\\(?:[,!;: ]|q?quad(?![a-z]))|[~\s]+", " "),
        (r"(?<!\\)\\[()\[\]]|\\?[$£€]", ""),
        (r"\^\s*(?:\\circ|\{\s*\\circ\s*\})|\\degree|°", ""),
        (rf"{_TEXT}\{{\s*percent\s*\}}|\bpercent\b|\\%", "%"),
        (rf"{_TEXT}\{{\s*,?\s*(?:and|or)\s*\}}|\b(?:and|or)\b", ","),
        (r"\\math(?:rm|bf|it|sf)\s*\{\s*(\w)\s*\}", r"\1"),  # an upright letter is a name, a word a unit
        (rf"{_TEXT}\{{([^{{}}]*\d[^{{}}]*)\}}", r"\1"),
        (rf"{_TEXT}\{{[^{{}}]*\}}{_POWER}", " "),
        (rf"(?<=[\d)}}])(?:\s+(?:[ckm]m|kg|ft|in|[a-zA-Z]{{3,}})\b{_POWER})+(?=\s*(?:[.,;]|$))", ""),
        (r"^\s*[a-zA-Z]\s*\\in\b", ""),
        (r"\\(begin|end)\s*\{(?:array|smallmatrix)\}(?:\s*\{[^{}]*\})?", r"\\\1{pmatrix}"),
        (r"\\\\(?:\s*\[[^\[\]]*\])?", r"\\\\ "),  # a row may be given a height
        (r"(?<=\d)\s+(\d+)/(\d+)", r"\\frac{\1}{\2}"),  # 1 4/5
        (r"(?<!\\frac \d)(?<=\d)\s+(?=\d)", ","),  # Math-Verify would add them up
        (r"(?<=\d)i(?![a-zA-Z])", " i"),  # where Math-Verify would see a variable
        (r"(\d*)\.(\d+)", _ratio),
    ]
]


def _respell(answer: str) -> str:
    for pattern, spelling in _SPELLINGS:
        answer = pattern.sub(spelling, answer)
    return answer.strip(" .,;:=")


_COMMA = r"[,;]"
_BARE_COMMA = r";|,(?!(?<=\d,)\d{3}(?!\d))"  # outside brackets 58,500 is one number
_EQUALS = r"(?<![<>!:])="
_CUP = r"\\cup(?![a-z])"
_VALUE, _LIST, _UNION = "value", "list", "union"


def _tokens(text: str, separator: str = "(?!)") -> Iterator[tuple[re.Match, int]]:
    """Brackets and separators, each with the depth that it leaves."""
    depth = 0
    for token in re.finditer(rf"(?P<separator>{separator})|\\begin|\\end|\\?[\[\](){{}}]", text):
        if token["separator"] is None:
            depth += 1 if token.group() in ("\\begin", "[", "(", "{", "\\{") else -1
        yield token, depth


def _split(text: str, separator: str) -> list[str]:
    """The parts between separators that stand in no brackets, without empty ones."""
    cuts = [token.span() for token, depth in _tokens(text, separator) if token["separator"] and not depth]
    edges = zip([0, *(end for _, end in cuts)], [*(start for start, _ in cuts), len(text)], strict=True)
    return [part for start, end in edges if (part := text[start:end].strip())]


def _unwrap(text: str) -> tuple[str, str, str]:
    """The brackets around all of the text and what they hold between them; empty ones where there are none."""
    opening = re.match(r"\\?[\[({]", text)
    closing = next((token for token, depth in _tokens(text) if depth == 0), None)
    if opening is None or closing is None or closing.end() < len(text):
        return "", text, ""
    return opening.group(), text[opening.end() : closing.start()], closing.group()


def _shape(text: str) -> tuple[str, list[str]]:
    """How an answer is built and of which parts: a value, a list, a union, or a pair of brackets."""
    sets = _split(text, _CUP)
    if len(sets) > 1:
        return _UNION, sets
    opening, inside, closing = _unwrap(text)
    parts = _split(inside, _COMMA if opening else _BARE_COMMA)
    if opening in ("(", "[") and len(parts) > 1:
        return opening + closing, parts
    if opening and len(parts) == 1:
        return _shape(inside)
    parts = [sign for part in parts for sign in _signs(part)]
    return (_VALUE, [text]) if len(parts) == 1 else (_LIST, parts)


def _signs(text: str) -> list[str]:
    r"""The two values that `\pm` makes of one."""
    both = [(r"\pm", r"\mp"), (r"\mp", r"\pm")]
    found = [text.replace(plus, "+").replace(minus, "-") for plus, minus in both]
    return found if found[0] != found[1] else [text]


def _is_same(said: str, gold: str) -> bool:
    said, gold = _unname(said, gold), _unname(gold, said)
    (kind, parts), (gold_kind, gold_parts) = _shape(said), _shape(gold)
    if _VALUE in (kind, gold_kind):  # a value can be a set: x > 2
        return _LIST not in (kind, gold_kind) and _is_same_value(said, gold)
    if kind != gold_kind or len(parts) != len(gold_parts):
        return False
    if kind in (_LIST, _UNION):
        return _is_same_bag(parts, gold_parts)
    return all(map(_is_same, parts, gold_parts))


def _unname(text: str, other: str) -> str:
    """5 for `x = 5` where the other answer has no name."""
    name, *sides = _split(text, _EQUALS) or [""]
    if not sides or "=" in other or len(_split(text, _BARE_COMMA)) > 1:
        return text
    return sides[-1] if re.fullmatch(r"[^\d+\-/^<>]+", name) else text


def _is_same_bag(parts: list[str], gold_parts: list[str]) -> bool:
    left = list(gold_parts)
    for part in parts:
        found = next((gold for gold in left if _is_same(part, gold)), None)
        if found is None:
            return False
        left.remove(found)
    return True


def _is_same_value(said: str, gold: str) -> bool:
    based = [re.fullmatch(r"\(?(-?[\dA-F]+)\)?_\{?(\d+)\}?", text) for text in (said, gold)]
    if any(based):  # Math-Verify would drop the base
        digits = [
            match.groups() if match else (text, "10") for match, text in zip(based, (said, gold), strict=True)
        ]
        return digits[0] == digits[1]
    pairs = [(one, other) for one in _readings(said, gold) for other in _readings(gold, said)]
    return any(_is_equal(*pair) for pair in pairs)


def _readings(text: str, other: str) -> list[str]:
    """50 for 50%, and a half as well where the other answer has no percent sign."""
    bare = "".join(_split(text.replace("%", ""), ","))  # thousands
    return [bare, rf"\frac{{{bare}}}{{100}}"] if "%" in text and "%" not in other else [bare]


def _is_equal(said: str, gold: str) -> bool:
    """Whether Math-Verify takes two values for one. Raises what it raises, and where it cannot read the gold."""
    from math_verify import verify

    expected, found = _read(gold), _read(said)
    if not expected:
        raise ValueError(f"Math-Verify cannot read the gold answer {gold!r}")
    options = {"allow_set_relation_comp": True, "timeout_seconds": STEP_S, "raise_on_error": True}
    return verify(expected, found, **options)


def _read(value: str) -> list:
    """The value as SymPy has it, alone in a list; an empty list where it cannot be read."""
    from latex2sympy2_extended import NormalizationConfig
    from math_verify import LatexExtractionConfig, parse

    as_written = NormalizationConfig(units=False, malformed_operators=True, boxed="none")
    return parse(
        f"${value}$",
        [LatexExtractionConfig(boxed_match_priority=-1, normalization_config=as_written)],
        fallback_mode="no_fallback",
        extraction_mode="first_match",  # else it would read a part of what it cannot read
        parsing_timeout=STEP_S,
        raise_on_error=True,
    )
