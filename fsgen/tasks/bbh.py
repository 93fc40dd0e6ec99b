"""BIG-Bench Hard (lukaemon/bbh, arXiv 2210.09261): 27 tasks of several kinds, answered in worked steps.

    Question: not ( True ) and ( True ) is
    Answer: not True is False. False and True is False. So the answer is False.

An answer is a choice, a number, a word of two, closing brackets or a list of words; its gold says which.
Solved examples are of the question's own task and were written for this project.
"""

import json
import re
from pathlib import Path

from fsgen.config.schema import DatasetConfig
from fsgen.errors import UserError
from fsgen.tasks import sources
from fsgen.tasks.protocol import END_TOKENS, Prompt, Verdict, ask, ask_plainly, compare, prefer_strict
from fsgen.tasks.sources import Source

SOURCE = Source("BBH", "lukaemon/bbh", None, {"input": str, "target": str})
GOLD = ("target",)
STOPS = ("\nQuestion:",)
STOP_TOKENS = END_TOKENS
ANSWER = r"(?i)answer is[^\n]*"
SYSTEM = "Think step by step and end with a line that reads 'So the answer is <answer>.'"
EXEMPLARS = Path(__file__).parent / "exemplars" / "bbh.json"
TASKS = (
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
_DRESS = re.compile(r"\\(?:boxed|text|textbf|mathrm)\s*\{|[*$`\"'“”‘’]|\\[()]")
_NUMBER = re.compile(r"[-\u2212]?\d(?:[\d,]*\d)?(?:\.\d+)?")
_CHOICE = re.compile(
    r"\(([A-R])\)|\\boxed\s*\{\s*(?:\\text\{)?\(?([A-R])\)?|"
    r"(?:[Aa]nswer|[Oo]ption|[Cc]hoice)\s*[-:=]?[\s*]*\(?([A-R])\)?(?!\w)|^[\s*]*([A-R])[\s*.]*$",
    re.MULTILINE,
)
_PAIRS = (("true", "false"), ("yes", "no"), ("valid", "invalid"))


def prompts(dataset: DatasetConfig) -> list[Prompt]:
    """A prompt for every row of the 27 tasks, numbered within its task.

    A local folder holds a file a task. Raises Complaint where one is missing, a row lacks its input or
    target, or more examples are asked than there are.
    """
    shown = json.loads(EXEMPLARS.read_text())
    most = min(map(len, shown.values()))
    if dataset.shots > most:
        raise UserError(f"BBH has {most} solved examples a task, got {dataset.shots} shots; lower it.")
    return [prompt for task in TASKS for prompt in _prompts_of(task, dataset, shown[task][: dataset.shots])]


def _prompts_of(task: str, dataset: DatasetConfig, shown: list[dict]) -> list[Prompt]:
    found = sources.read(SOURCE._replace(config=task), "test", dataset.path, stem=task)
    examples = [(e["input"], f"{e['reasoning']} So the answer is {e['target']}.") for e in shown]
    return [
        Prompt(
            f"bbh-{task}-{i:04d}",
            ask(SYSTEM, examples, row["input"]),
            ask_plainly(examples, row["input"]),
            {"target": row["target"]},
        )
        for i, row in enumerate(found)
    ]


def grade(text: str, gold: dict) -> Verdict:
    """Strict: what stands after the last "the answer is". Flexible: the likeliest answer of gold's kind.

    Case, spaces, commas between words and markup do not matter; the order of words and brackets does.
    """
    read_stated, read_likeliest = KINDS[_kind(gold["target"])]
    expected = read_stated(_undress(gold["target"]))
    stated = _STATED.findall(text)
    strict = read_stated(_undress(stated[-1])) if stated else None
    flexible = strict or read_likeliest(text)
    judged = compare(strict, expected), compare(flexible, expected)
    return Verdict(prefer_strict(*judged), strict or flexible, *judged)


def _kind(target: str) -> str:
    if re.fullmatch(r"\([A-R]\)", target):
        return "choice"
    if re.fullmatch(r"-?\d+", target):
        return "number"
    if any(target.lower() in pair for pair in _PAIRS):
        return "word"
    return "brackets" if re.fullmatch(r"[\[\](){}<>\s]+", target) else "words"


def _undress(said: str) -> str:
    """Without markup: bold, quotes, and LaTeX's commands with the braces that close them."""
    opened = said.count("\\boxed") + said.count("\\text") + said.count("\\mathrm")
    said = _DRESS.sub("", said).strip().rstrip(".").strip()
    for _ in range(opened):
        said = said.removesuffix("}").strip().rstrip(".")
    return said.strip()


def _read_choice(said: str) -> str | None:
    found = re.match(r"\(?([A-Ra-r])\)?(?![\w'])", said)
    if found is None or (found[1].islower() and not said.startswith("(")):
        return None
    return f"({found[1].upper()})"


def _likeliest_choice(text: str) -> str | None:
    found = _CHOICE.findall(text)
    return f"({next(letter for letter in found[-1] if letter)})" if found else None


def _read_number(said: str) -> str | None:
    """The number that comes first, or last of an equation."""
    found = _NUMBER.findall(said.rpartition("=")[2])
    return _spelt(found[0]) if found else None


def _likeliest_number(text: str) -> str | None:
    found = re.findall(rf"(?<![\w.]){_NUMBER.pattern}", text)
    return _spelt(found[-1]) if found else None


def _spelt(number: str) -> str:
    whole, _, part = number.replace(",", "").replace("\u2212", "-").partition(".")
    part = part.rstrip("0")
    return f"{int(whole)}.{part}" if part else str(int(whole))


def _read_word(said: str) -> str | None:
    found = re.match(
        r"(?:that )?(?:it|the argument)?(?: is )?(not |in)?(true|false|yes|no|valid)\b", said.lower()
    )
    return _resolved(found)


def _likeliest_word(text: str) -> str | None:
    last = text.strip().rpartition("\n")[2].lower()
    found = None
    for found in re.finditer(r"\b(not |in)?(true|false|yes|no|valid)\b", last):  # noqa: B007, the last one
        pass
    return _resolved(found)


def _resolved(found: re.Match | None) -> str | None:
    """ "not valid" is invalid, "not true" is false."""
    if found is None:
        return None
    said, is_denied = found[2], bool(found[1])
    pair = next(pair for pair in _PAIRS if said in pair)
    return pair[1 - pair.index(said)] if is_denied else said


def _read_brackets(said: str) -> str | None:
    return " ".join(re.sub(r"[^\[\](){}<>]", "", re.match(r"[\[\](){}<>\s,]*", said)[0])) or None


def _likeliest_brackets(text: str) -> str | None:
    found = re.findall(r"[\[\](){}<>](?:[\[\](){}<>\s,]*[\[\](){}<>])?", text.strip().rpartition("\n")[2])
    return _read_brackets(found[-1]) if found else None


def _read_words(said: str) -> str | None:
    return " ".join(re.split(r"[\s,;]+", said.lower().strip(" .,;"))) or None


def _likeliest_words(text: str) -> str | None:
    return _read_words(_undress(text.strip().rpartition("\n")[2].rpartition(":")[2]))


# how the answer of each kind is read where it is stated, and where the text leaves it to the reader
KINDS = {
    "choice": (_read_choice, _likeliest_choice),
    "number": (_read_number, _likeliest_number),
    "word": (_read_word, _likeliest_word),
    "brackets": (_read_brackets, _likeliest_brackets),
    "words": (_read_words, _likeliest_words),
}
