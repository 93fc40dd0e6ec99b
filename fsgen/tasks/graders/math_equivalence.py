"""Whether two formulas are one answer: how they are built is compared here, single values by Math-Verify."""

import re
from collections.abc import Iterator

STEP_S = 5  # for each step of Math-Verify, in whole seconds


def is_equivalent(said: str, gold: str) -> bool:
    """Whether two answers in LaTeX are the same.

    Lists have no order, tuples have; brackets, bases and every digit count; units need not stand there.
    Raises what Math-Verify raises, TimeoutException among it, and where it cannot read the gold.
    """
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
    """The brackets around all of the text and what they hold; empty ones where there are none."""
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
    """Whether Math-Verify takes two values for one."""
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
