"""MBPP (google-research-datasets/mbpp, arXiv 2108.07732): short Python functions, graded by their tests.

    Question: Write a function to find the shared elements from the given two lists.
    These assertions have to hold:
    assert set(similar_elements((3, 4, 5, 6), (5, 7, 4, 10))) == set((4, 5))
    Answer: ```python
    def similar_elements(first, second): ...
    ```

Tasks 1 to 10 are for exemplars, 11 to 510 for testing, 511 to 600 for validation, the rest for training.
"""

import ast
import re
import textwrap

from fsgen.config.schema import DatasetConfig
from fsgen.errors import UserError
from fsgen.tasks import sources
from fsgen.tasks.graders import sandbox
from fsgen.tasks.graders.sandbox import Limits, ProgramResult, Protections
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

SOURCE = Source(
    "MBPP",
    "google-research-datasets/mbpp",
    "full",
    {"task_id": int, "text": str, "code": str, "test_list": list, "test_setup_code": str},
)
GOLD = ("test_list", "test_setup_code")
ANSWER = r"(?s)\A.*?```[^\n`]*\n.*?```"  # the first block is the answer
SYSTEM = "Write the Python code that the task asks for in one ```python block, without tests of your own."
LIMITS = Limits()
IDS = {
    "prompt": range(1, 11),
    "test": range(11, 511),
    "validation": range(511, 601),
    "train": range(601, 975),
}
EXAMPLE_IDS = {0: (), 3: (2, 3, 4), 10: tuple(range(1, 11))}  # the sets in common use, by `shots`
DEFINITIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Import, ast.ImportFrom, ast.Assign)
_BLOCK = re.compile(r"```[^\n`]*\n(.*?)(?:```|\Z)", re.DOTALL)
_BEGIN = re.compile(r"^(?:def|async def|class|import|from|@)\b|^@|^\w+ *= ", re.MULTILINE)


def prompts(dataset: DatasetConfig) -> list[Prompt]:
    """A prompt for every task of the split, by rising id.

    Raises UserError for an unknown split, other shots than 0, 3 (tasks 2 to 4) or 10 (tasks 1 to 10),
    or if the hub or the file cannot be read.
    """
    _check_split_and_shots(dataset)
    rows = _rows_by_id(dataset)
    examples = [_example(rows[task_id]) for task_id in EXAMPLE_IDS[dataset.shots]]
    return [_prompt(rows[task_id], examples) for task_id in IDS[dataset.split]]


def _check_split_and_shots(dataset: DatasetConfig) -> None:
    shows_its_own_rows = dataset.split == "prompt" and dataset.shots > 0
    if dataset.split not in IDS or dataset.shots not in EXAMPLE_IDS or shows_its_own_rows:
        raise UserError(
            f"MBPP has the splits {', '.join(IDS)} and 0, 3 or 10 shots (of the split 'prompt', which takes "
            f"none), got '{dataset.split}' and {dataset.shots}; change the dataset's split or shots."
        )


def _rows_by_id(dataset: DatasetConfig) -> dict[int, dict]:
    """All rows by task id; UserError if one that the split or its examples need is missing."""
    rows = {row["task_id"]: row for row in _read_rows(dataset)}
    for task_id in (*IDS[dataset.split], *EXAMPLE_IDS[dataset.shots]):
        if task_id not in rows:
            raise UserError(f"MBPP should hold task {task_id}, got none; complete the rows.")
    return rows


def _read_rows(dataset: DatasetConfig) -> list[dict]:
    """All rows: of one local file `mbpp`, or of the hub's splits."""
    if dataset.path is not None and not sources.has_splits(dataset.path, IDS):
        return sources.read(SOURCE, "all", dataset.path, stem="mbpp")
    return [row for split in IDS for row in sources.read(SOURCE, split, dataset.path)]


def _question(row: dict) -> str:
    return "\n".join([row["text"], "These assertions have to hold:", *row["test_list"]])


def _example(row: dict) -> Example:
    return Example(_question(row), f"```python\n{row['code'].replace(chr(13), '').strip()}\n```")


def _prompt(row: dict, examples: list[Example]) -> Prompt:
    gold = {column: row[column] for column in GOLD}
    return few_shot_prompt(f"mbpp-{row['task_id']:03d}", SYSTEM, examples, _question(row), gold)


def grade(text: str, gold: dict, protections: Protections) -> Verdict:
    """Strict: the first fenced block passes the tests. Flexible: the code in the text does.

    The code of a text without a block is the longest part, from its first definition or import, that parses.
    The flexible code ends with its last definition in both cases.
    """
    blocks = [block.strip("\n") for block in _BLOCK.findall(text)]
    strict = _choose_block(blocks, gold["test_list"]) if blocks else None
    flexible = _extract_code(strict if blocks else text)
    results = {code: _run(code, gold, protections) for code in dict.fromkeys((strict, flexible)) if code}
    judgements = _judge(results.get(strict)), _judge(results.get(flexible))
    extracted = strict or flexible
    outcome, detail = results.get(extracted, (None, None))
    return Verdict(prefer_strict(*judgements), extracted, *judgements, outcome, detail)


def _choose_block(blocks: list[str], tests: list[str]) -> str:
    """The first block that defines a function that the tests call, or else the first block."""
    called = set(re.findall(r"\b(\w+)\s*\(", " ".join(tests)))
    for block in blocks:
        if called & set(re.findall(r"^def +(\w+)", block, re.MULTILINE)):
            return block
    return blocks[0]


def _extract_code(text: str) -> str | None:
    """The first code of a text, up to its last definition; None if there is none."""
    text = textwrap.dedent(text)
    begin = _BEGIN.search(text)
    lines = text[begin.start() :].split("\n") if begin else []
    for count in range(len(lines), 0, -1):
        try:
            tree = ast.parse("\n".join(lines[:count]))
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            continue
        end = max((node.end_lineno for node in tree.body if isinstance(node, DEFINITIONS)), default=0)
        return "\n".join(lines[:end]) or None
    return None


def _run(code: str, gold: dict, protections: Protections) -> ProgramResult:
    # the setup code follows the solution, because that of some tests uses what the solution defines
    return sandbox.run(f"{code}\n{gold['test_setup_code']}", gold["test_list"], LIMITS, protections)


def _judge(result: ProgramResult | None) -> Judgement:
    if result is None:
        return "unknown"
    return "right" if result.outcome == "pass" else "wrong"


TASK = Task(
    prompts=prompts,
    grade=grade,
    gold=GOLD,
    stops=(NEXT_QUESTION, "\n[DONE]"),
    stop_tokens=END_TOKENS,
    answer=ANSWER,
    runs_code=True,
    limit_s=4 * LIMITS.wall_s,  # two programs may run for a text
    test_prompts=500,
    prompt_tokens=118,
)
