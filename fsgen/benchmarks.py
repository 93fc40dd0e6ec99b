"""Benchmarks: a dataset's rows become prompts in a seeded order, and texts become verdicts."""

import hashlib
import json
from pathlib import Path
from types import ModuleType

import polars as pl
import pyarrow as pa

from fsgen import console, store
from fsgen.settings import Dataset, Settings
from fsgen.tasks import arith, gsm8k
from fsgen.tasks.task import Prompt, Verdict
from fsgen.texts import cut
from fsgen.typed import Complaint

TASKS: dict[str, ModuleType] = {"arith": arith, "gsm8k": gsm8k}
MESSAGE = pa.struct([("role", pa.string()), ("content", pa.string())])
FOLLOW_UP = pa.struct([("message", pa.string()), ("plain", pa.string())])
PROMPTS = store.schema(
    [
        ("prompt_id", pa.string(), "name of the prompt: task, split and row number"),
        ("order", pa.int32(), "place in the seeded order, from 0; a raised limit only appends"),
        ("split", pa.string(), "calibration (routers are fitted on it) or test (results count it)"),
        ("messages", pa.list_(MESSAGE), "the conversation that a chat template renders"),
        ("plain", pa.string(), "the text for models with prompt: plain"),
        ("follow_ups", pa.list_(FOLLOW_UP), "what the user says after each answer but the last"),
        ("stops", pa.list_(pa.string()), "strings that end a turn and are no part of it"),
        ("stop_tokens", pa.list_(pa.string()), "tokens that do so where a vocabulary has them"),
        ("answer", pa.string(), "pattern whose last match closes the answer; null where all belongs to it"),
        ("gold", pa.string(), "the task's gold columns, as a JSON object"),
    ]
)
VERDICTS = [
    ("prompt_id", pa.string(), "prompt that the text answers"),
    ("turn", pa.int32(), "turn of the conversation, from 1"),
    ("split", pa.string(), "calibration or test"),
    ("verdict", pa.string(), "right, wrong or unknown (no answer found)"),
    ("extracted", pa.string(), "the answer that the verdict rests on; null where there is none"),
    ("strict", pa.string(), "verdict on the answer in the task's own format"),
    ("flexible", pa.string(), "verdict on the likeliest answer, whatever its format"),
]
GRADED = store.schema(VERDICTS)
GRADED_PAIR = store.schema([("policy", pa.string(), "policy that wrote the text"), *VERDICTS])


def build_prompts(name: str, dataset: Dataset, seed: int) -> pl.DataFrame:
    """The prompts table (PROMPTS) of the dataset `name`, sorted by order.

    The order is by a hash of seed and prompt, so a raised `limit` only appends; the split is by a
    hash of the prompt alone, so it is fixed for ever. Raises Complaint where two rows share a
    prompt_id or one of the splits would be empty.
    """
    task = TASKS[dataset.task]
    prompts = task.prompts(dataset)
    _check_ids(name, prompts)
    prompts.sort(key=lambda prompt: _hash(f"{seed}:{prompt.prompt_id}"))
    table = [
        _row(task, prompt) | {"order": i, "split": split_of(prompt.prompt_id, dataset.calibration)}
        for i, prompt in enumerate(prompts[: dataset.limit])
    ]
    _check_splits(name, table)
    return pl.from_arrow(pa.Table.from_pylist(table, schema=PROMPTS))


def split_of(prompt_id: str, calibration: float) -> str:
    """`calibration` for about that share of all prompts, `test` for the others, whatever the seed."""
    return "calibration" if _hash(f"split:{prompt_id}") < calibration * 2**64 else "test"


def _row(task: ModuleType, prompt: Prompt) -> dict:
    return {
        "prompt_id": prompt.prompt_id,
        "messages": prompt.messages,
        "plain": prompt.plain,
        "follow_ups": [follow_up._asdict() for follow_up in prompt.follow_ups],
        "stops": list(task.STOPS),
        "stop_tokens": list(task.STOP_TOKENS),
        "answer": task.ANSWER,
        "gold": json.dumps(prompt.gold, sort_keys=True),
    }


def _hash(text: str) -> int:
    """Uniform over 64 bits."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")


def _check_ids(name: str, prompts: list[Prompt]) -> None:
    seen: set[str] = set()
    for prompt_id, *_ in prompts:
        if prompt_id in seen:
            raise Complaint(
                f"datasets.{name} should give every row its own prompt_id, got '{prompt_id}' twice; "
                "mend the task's prompts()."
            )
        seen.add(prompt_id)


def _check_splits(name: str, table: list[dict]) -> None:
    tests = sum(row["split"] == "test" for row in table)
    if not 0 < tests < len(table):
        raise Complaint(
            f"datasets.{name} should give prompts for both splits, got {tests} for test and "
            f"{len(table) - tests} for calibration; raise its limit or change its calibration share."
        )


def grade_text(task_name: str, text: str, row: dict) -> Verdict:
    """The task's verdict on one text, cut at its first stop string; `row` holds the task's gold columns."""
    task = TASKS[task_name]
    return task.grade(cut(text, task.STOPS), row)


def grade_texts(task_name: str, prompts: pl.DataFrame, texts: pl.DataFrame) -> pl.DataFrame:
    """Verdicts (GRADED, or GRADED_PAIR where texts have a policy), sorted by policy, prompt and turn.

    Raises Complaint where a text answers none of the prompts.
    """
    key = [column for column in ("policy", "prompt_id", "turn") if column in texts.columns]
    gold = prompts.select("prompt_id", "split", "gold")
    rows = texts.select(*key, "text").join(gold, on="prompt_id", how="left", validate="m:1").sort(key)
    for orphan in rows.filter(pl.col("gold").is_null())["prompt_id"]:
        raise Complaint(
            f"A text answers '{orphan}', which is none of the {len(prompts)} prompts; "
            "rerun the stages from 'prompts' on."
        )
    verdicts = [
        grade_text(task_name, text, json.loads(answer))
        for text, answer in rows.select("text", "gold").iter_rows()
    ]
    graded = pl.DataFrame(verdicts, schema=dict.fromkeys(Verdict._fields, pl.String), orient="row")
    return pl.concat([rows.select(*key, "split"), graded], how="horizontal")


def write_prompts(settings: Settings, name: str) -> None:
    """Write data/prompts/<name>.parquet."""
    path = Path("data/prompts") / f"{name}.parquet"
    prompts = build_prompts(name, settings.named("datasets", name), settings.seed)
    store.write(path, prompts, PROMPTS)
    tests = int((prompts["split"] == "test").sum())
    console.wrote(f"{path}: {tests} test and {len(prompts) - tests} calibration prompts")


def grade_solo(settings: Settings, model: str) -> None:
    """Grade what a model wrote alone; writes data/graded/models/<model>/."""
    settings.named("models", model)
    _grade(settings, Path("data/dumps") / model, Path("data/graded/models") / model, GRADED)


def grade_pair(settings: Settings, pair: str) -> None:
    """Grade what a pair's policies wrote; writes data/graded/pairs/<pair>/."""
    settings.named("pairs", pair)
    _grade(settings, Path("data/rollouts") / pair, Path("data/graded/pairs") / pair, GRADED_PAIR)


def _grade(settings: Settings, source: Path, out: Path, schema: pa.Schema) -> None:
    said = []
    with store.appear(out) as folder:
        for name, dataset in settings.datasets.items():
            prompts = store.read(f"data/prompts/{name}.parquet")
            graded = grade_texts(dataset.task, prompts, store.read(source / name / "texts-*.parquet"))
            store.write(folder / f"{name}.parquet", graded, schema)
            said.append(f"{name} {_tally(graded)}")
    console.wrote(f"{out}: {'; '.join(said)}")


def _tally(graded: pl.DataFrame) -> str:
    counts = dict(graded["verdict"].value_counts().iter_rows())
    words = ", ".join(f"{counts.get(word, 0)} {word}" for word in ("right", "wrong", "unknown"))
    return f"{len(graded)} texts, {words}"
