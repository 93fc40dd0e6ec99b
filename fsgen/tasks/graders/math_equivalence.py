"""Equality of two formulas as answers: structure is compared here, single values by Math-Verify."""

import re
from collections.abc import Iterator
from itertools import product

STEP_S = 5  # for each step of Math-Verify, in whole seconds


def is_equivalent(answer: str, gold: str) -> bool:
    """Whether two answers in LaTeX are the same.

    Lists have no order, tuples do; brackets, bases and every digit count; units may be left out.
    Raises what Math-Verify raises, including TimeoutException, and ValueError if it cannot read the gold.
    """
    if re.search(r"\\(?:text|mbox|math)", gold) and _bare_word(gold):
        return _bare_word(answer) == _bare_word(gold)
    answer, gold = _normalize(answer), _normalize(gold)
    return answer == gold or _is_same(answer, gold)


def _bare_word(text: str) -> str:
    r"""An answer in words without markup: e for \text{(E)}; empty if it holds more than letters."""
    bare = re.sub(r"\\(?:text\w*|mbox|math\w+)|\\[ ,]|[{}().:*\s]", "", text).casefold()
    return bare if bare.isalpha() else ""


def _ratio(decimal: re.Match) -> str:
    """A decimal as a fraction, so that all digits count."""
    return rf"(\frac{{{int(decimal[1] + decimal[2])}}}{{1{'0' * len(decimal[2])}}})"


_TEXT = r"\\(?:text\w*|mbox|math(?:rm|bf|it|sf))\s*"
_POWER = r"(?:\s*\^\s*(?:\d|\{\d\}))?"
# Patterns of notation that has several forms, and the one form that replaces them, in order.
_REPLACEMENTS = [
    (re.compile(pattern), replacement)
    for pattern, replacement in [
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
        (
            r"\\math(?:rm|bf|it|sf)\s*\{\s*(\w)\s*\}",
            r"\1",
        ),  # an upright letter is a name, an upright word a unit
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


def _normalize(answer: str) -> str:
    for pattern, replacement in _REPLACEMENTS:
        answer = pattern.sub(replacement, answer)
    return answer.strip(" .,;:=")


_COMMA = r"[,;]"
_BARE_COMMA = r";|,(?!(?<=\d,)\d{3}(?!\d))"  # outside brackets 58,500 is one number
_EQUALS = r"(?<![<>!:])="
_CUP = r"\\cup(?![a-z])"
_VALUE, _LIST, _UNION = "value", "list", "union"


def _tokens(text: str, separator: str = "(?!)") -> Iterator[tuple[re.Match, int]]:
    """Brackets and separators, each with the nesting depth after it."""
    depth = 0
    for token in re.finditer(rf"(?P<separator>{separator})|\\begin|\\end|\\?[\[\](){{}}]", text):
        if token["separator"] is None:
            depth += 1 if token.group() in ("\\begin", "[", "(", "{", "\\{") else -1
        yield token, depth


def _split(text: str, separator: str) -> list[str]:
    """The nonempty parts between separators outside all brackets."""
    parts, start = [], 0
    for token, depth in _tokens(text, separator):
        if token["separator"] and not depth:
            parts.append(text[start : token.start()].strip())
            start = token.end()
    parts.append(text[start:].strip())
    return [part for part in parts if part]


def _unwrap(text: str) -> tuple[str, str, str]:
    """Opening bracket, content and closing bracket of the whole text; empty brackets if there are none."""
    opening = re.match(r"\\?[\[({]", text)
    closing = next((token for token, depth in _tokens(text) if depth == 0), None)
    if opening is None or closing is None or closing.end() < len(text):
        return "", text, ""
    return opening.group(), text[opening.end() : closing.start()], closing.group()


def _shape(text: str) -> tuple[str, list[str]]:
    """The structure of an answer (a value, a list, a union or a pair of brackets) and its parts."""
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
    r"""The two values that `\pm` stands for."""
    plus = text.replace(r"\pm", "+").replace(r"\mp", "-")
    minus = text.replace(r"\mp", "+").replace(r"\pm", "-")
    return [plus, minus] if plus != minus else [text]


def _is_same(answer: str, gold: str) -> bool:
    """Whether two normalized answers have the same structure and equal parts."""
    answer, gold = _drop_name(answer, gold), _drop_name(gold, answer)
    (kind, parts), (gold_kind, gold_parts) = _shape(answer), _shape(gold)
    if _VALUE in (kind, gold_kind):  # a value can be a set: x > 2
        return _LIST not in (kind, gold_kind) and _is_same_value(answer, gold)
    if kind != gold_kind or len(parts) != len(gold_parts):
        return False
    if kind in (_LIST, _UNION):
        return _is_same_in_any_order(parts, gold_parts)
    return all(map(_is_same, parts, gold_parts))


def _drop_name(text: str, other: str) -> str:
    """5 for `x = 5` if the other answer has no name."""
    name, *sides = _split(text, _EQUALS) or [""]
    if not sides or "=" in other or len(_split(text, _BARE_COMMA)) > 1:
        return text
    return sides[-1] if re.fullmatch(r"[^\d+\-/^<>]+", name) else text


def _is_same_in_any_order(parts: list[str], gold_parts: list[str]) -> bool:
    unmatched = list(gold_parts)
    for part in parts:
        match = next((gold for gold in unmatched if _is_same(part, gold)), None)
        if match is None:
            return False
        unmatched.remove(match)
    return True


def _is_same_value(answer: str, gold: str) -> bool:
    answer_digits, gold_digits = _digits_and_base(answer), _digits_and_base(gold)
    if answer_digits or gold_digits:  # Math-Verify would drop the base
        return (answer_digits or (answer, "10")) == (gold_digits or (gold, "10"))
    pairs = product(_readings(answer, gold), _readings(gold, answer))
    return any(_is_equal(*pair) for pair in pairs)


def _digits_and_base(text: str) -> tuple[str, str] | None:
    """("1101", "2") for 1101_2; None without a base."""
    match = re.fullmatch(r"\(?(-?[\dA-F]+)\)?_\{?(\d+)\}?", text)
    return match.groups() if match else None


def _readings(text: str, other: str) -> list[str]:
    """50 for 50%, and one half as well if the other answer has no percent sign."""
    bare = "".join(_split(text.replace("%", ""), ","))  # thousands
    return [bare, rf"\frac{{{bare}}}{{100}}"] if "%" in text and "%" not in other else [bare]


def _is_equal(answer: str, gold: str) -> bool:
    """Whether Math-Verify finds two values equal."""
    from math_verify import verify

    expected, actual = _read(gold), _read(answer)
    if not expected:
        raise ValueError(f"Math-Verify cannot read the gold answer {gold!r}")
    return verify(expected, actual, allow_set_relation_comp=True, timeout_seconds=STEP_S, raise_on_error=True)


def _read(value: str) -> list:
    """The value as a SymPy expression, alone in a list; an empty list if it cannot be read."""
    from latex2sympy2_extended import NormalizationConfig
    from math_verify import LatexExtractionConfig, parse

    as_written = NormalizationConfig(units=False, malformed_operators=True, boxed="none")
    return parse(
        f"${value}$",
        [LatexExtractionConfig(boxed_match_priority=-1, normalization_config=as_written)],
        fallback_mode="no_fallback",
        extraction_mode="first_match",  # otherwise it would read only a part of the value
        parsing_timeout=STEP_S,
        raise_on_error=True,
    )
