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
from fsgen.tasks.graders.sandbox import Limits, Protections
from fsgen.tasks.protocol import END_TOKENS, Judgement, Prompt, Verdict, ask, ask_plainly, prefer_strict
from fsgen.tasks.sources import Source

SOURCE = Source(
    "MBPP",
    "google-research-datasets/mbpp",
    "full",
    {"task_id": int, "text": str, "code": str, "test_list": list, "test_setup_code": str},
)
GOLD = ("test_list", "test_setup_code")
STOPS = ("\nQuestion:", "\n[DONE]")
STOP_TOKENS = END_TOKENS
ANSWER = r"(?s)\A.*?```[^\n`]*\n.*?```"  # the first block is the answer
SYSTEM = "Write the Python code that the task asks for in one ```python block, without tests of your own."
LIMITS = Limits()
LIMIT_S = 4 * LIMITS.wall_s  # two programs may run for a text
IDS = {
    "prompt": range(1, 11),
    "test": range(11, 511),
    "validation": range(511, 601),
    "train": range(601, 975),
}
EXEMPLARS = {0: (), 3: (2, 3, 4), 10: tuple(range(1, 11))}  # the sets in use, by `shots`
KEPT = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Import, ast.ImportFrom, ast.Assign)
_BLOCK = re.compile(r"```[^\n`]*\n(.*?)(?:```|\Z)", re.DOTALL)
_BEGIN = re.compile(r"^(?:def|async def|class|import|from|@)\b|^@|^\w+ *= ", re.MULTILINE)


def prompts(dataset: DatasetConfig) -> list[Prompt]:
    """A prompt for every task of the split, by rising id.

    Raises Complaint for an unknown split, other shots than 0, 3 (tasks 2 to 4) or 10 (tasks 1 to 10),
    or where the hub or the file cannot be read.
    """
    shows_itself = dataset.split == "prompt" and dataset.shots > 0
    if dataset.split not in IDS or dataset.shots not in EXEMPLARS or shows_itself:
        raise UserError(
            f"MBPP has the splits {', '.join(IDS)} and 0, 3 or 10 shots (of the split 'prompt', which takes "
            f"none), got '{dataset.split}' and {dataset.shots}; change the dataset's split or shots."
        )
    found = {row["task_id"]: row for row in _read_all(dataset)}
    missing = [i for i in (*IDS[dataset.split], *EXEMPLARS[dataset.shots]) if i not in found]
    if missing:
        raise UserError(f"MBPP should hold task {missing[0]}, got none; complete the rows.")
    shown = [(_question(found[i]), _answer(found[i])) for i in EXEMPLARS[dataset.shots]]
    return [_prompt(found[i], shown) for i in IDS[dataset.split]]


def _read_all(dataset: DatasetConfig) -> list[dict]:
    """All rows: of one local file `mbpp`, or of the hub's splits."""
    if dataset.path is not None and not sources.has_splits(dataset.path, IDS):
        return sources.read(SOURCE, "all", dataset.path, stem="mbpp")
    return [row for split in IDS for row in sources.read(SOURCE, split, dataset.path)]


def _question(row: dict) -> str:
    return "\n".join([row["text"], "These assertions have to hold:", *row["test_list"]])


def _answer(row: dict) -> str:
    return f"```python\n{row['code'].replace(chr(13), '').strip()}\n```"


def _prompt(row: dict, shown: list[tuple[str, str]]) -> Prompt:
    question = _question(row)
    gold = {column: row[column] for column in GOLD}
    return Prompt(
        f"mbpp-{row['task_id']:03d}", ask(SYSTEM, shown, question), ask_plainly(shown, question), gold
    )


def grade(text: str, gold: dict, protections: Protections) -> Verdict:
    """Strict: the first fenced block passes the tests. Flexible: the code in the text does.

    Of text without a block, that is the longest part from its first definition or import on that
    parses; in both cases what stands after the last definition is left out of the flexible one.
    """
    blocks = [block.strip("\n") for block in _BLOCK.findall(text)]
    strict = _choose(blocks, gold["test_list"]) if blocks else None
    flexible = _trim(strict if blocks else text)
    ran = {code: _run(code, gold, protections) for code in dict.fromkeys((strict, flexible)) if code}
    judged = _judge(ran.get(strict)), _judge(ran.get(flexible))
    counts = strict if strict else flexible
    told = ran.get(counts)
    return Verdict(prefer_strict(*judged), counts, *judged, *(told or (None, None)))


def _choose(blocks: list[str], tests: list[str]) -> str:
    """The first block that defines what the tests call, else the first."""
    called = set(re.findall(r"\b(\w+)\s*\(", " ".join(tests)))
    defined = (block for block in blocks if called & set(re.findall(r"^def +(\w+)", block, re.MULTILINE)))
    return next(defined, blocks[0])


def _trim(text: str) -> str | None:
    """The code that a text begins with or comes to, up to its last definition; None where there is none."""
    begin = _BEGIN.search(text := textwrap.dedent(text))
    lines = text[begin.start() :].split("\n") if begin else []
    for count in range(len(lines), 0, -1):
        try:
            tree = ast.parse("\n".join(lines[:count]))
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            continue
        end = max((node.end_lineno for node in tree.body if isinstance(node, KEPT)), default=0)
        return "\n".join(lines[:end]) or None
    return None


def _run(code: str, gold: dict, protections: Protections) -> sandbox.Ran:
    # the setup of some tests makes what the code defines
    return sandbox.run(f"{code}\n{gold['test_setup_code']}", gold["test_list"], LIMITS, protections)


def _judge(ran: sandbox.Ran | None) -> Judgement:
    if ran is None:
        return "unknown"
    return "right" if ran.outcome == "pass" else "wrong"
