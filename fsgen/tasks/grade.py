"""Grading: texts become verdicts, over processes where that takes time, by a judge where nothing else can."""

import json
import os
from multiprocessing import get_context
from pathlib import Path

import polars as pl
import pyarrow as pa

from fsgen.config.schema import Settings
from fsgen.config.validation import CODE_TASKS
from fsgen.errors import UserError
from fsgen.execution import console
from fsgen.tables import files, parquet, paths
from fsgen.tables.schemas.tasks import MODEL_GRADES, POLICY_GRADES
from fsgen.tasks.graders import judge, sandbox
from fsgen.tasks.graders.judge import Rating
from fsgen.tasks.graders.sandbox import Protections
from fsgen.tasks.protocol import Verdict, truncate_at_stop
from fsgen.tasks.registry import TASKS

JUDGEMENTS = Path("scratch/judgements")  # replies of judges, so that none is paid for twice
JOBS = len(os.sched_getaffinity(0))


class Grader:
    """What grading needs beside texts: leave to run code, processes, and a judge if there is one."""

    def __init__(self, settings: Settings, jobs: int = JOBS):
        self.settings, self.jobs = settings, jobs
        self._protections: Protections | None = None

    def protections(self) -> Protections:
        """What the sandbox protects by, which is said once. Complaint where running code is not allowed."""
        if not self.settings.allow_code_execution:
            raise UserError(
                "Grading code runs programs that models wrote, got no leave to; "
                "set 'allow_code_execution: true' in params.yaml if this machine may do so, in a sandbox."
            )
        if self._protections is None:
            self._protections = sandbox.protections(weak=self.settings.sandbox == "weak")
            console.warn(f"sandbox in force: {self._protections}")
        return self._protections

    def grade(self, task_name: str, texts: list[tuple[str, str]]) -> list[Verdict]:
        """Verdicts on (text, gold as JSON), each text cut at its first stop string; equal ones graded once.

        Tasks with a LIMIT_S are graded in worker processes; what takes longer than that is `unknown`.
        """
        extra = (self.protections(),) if task_name in CODE_TASKS else ()
        jobs = [(task_name, *text, *extra) for text in dict.fromkeys(texts)]
        limit_s = getattr(TASKS[task_name], "LIMIT_S", None)
        verdicts = _in_processes(jobs, self.jobs, limit_s) if limit_s else [_grade_one(job) for job in jobs]
        found = {job[1:3]: verdict for job, verdict in zip(jobs, verdicts, strict=True)}
        return [found[text] for text in texts]

    def rate(self, task_name: str, conversations: list[tuple[list[str], str]]) -> list[list[Rating | None]]:
        """Ratings of each answer of (answers, gold as JSON); None throughout where there is no judge."""
        asked_judge = judge.configured()
        if asked_judge is None:
            return [[None] * len(answers) for answers, _ in conversations]
        asked = [TASKS[task_name].requests(answers, json.loads(gold)) for answers, gold in conversations]
        given = iter(asked_judge.rate([request for own in asked for request in own], JUDGEMENTS))
        return [[next(given) for _ in own] for own in asked]


def _grade_one(job: tuple) -> Verdict:
    task_name, text, gold, *extra = job
    task = TASKS[task_name]
    return task.grade(truncate_at_stop(text, task.STOPS), json.loads(gold), *extra)


def _in_processes(jobs: list[tuple], workers: int, limit_s: float) -> list[Verdict]:
    """The verdicts in the order of the jobs, whatever the number of workers."""
    from pebble import ProcessPool

    with ProcessPool(max_workers=workers, context=get_context("spawn")) as pool:
        waiting = [pool.schedule(_grade_one, args=[job], timeout=limit_s) for job in jobs]
        return [_settled(future, limit_s) for future in waiting]


def _settled(future, limit_s: float) -> Verdict:
    try:
        return future.result()
    except TimeoutError:
        detail = f"grading took longer than {limit_s:g} s"
        return Verdict("unknown", None, "unknown", "unknown", None, detail)


def grade_texts(grader: Grader, task_name: str, prompts: pl.DataFrame, texts: pl.DataFrame) -> pl.DataFrame:
    """Verdicts (GRADED, or GRADED_PAIR where texts have a policy), sorted by policy, prompt and turn.

    Raises Complaint where a text answers none of the prompts.
    """
    key = [column for column in ("policy", "prompt_id", "turn") if column in texts.columns]
    gold = prompts.select("prompt_id", "split", "gold")
    rows = texts.select(*key, "text").join(gold, on="prompt_id", how="left", validate="m:1").sort(key)
    for orphan in rows.filter(pl.col("gold").is_null())["prompt_id"]:
        raise UserError(
            f"A text answers '{orphan}', which is none of the {len(prompts)} prompts; "
            "rerun the stages from 'prompts' on."
        )
    if is_judged(task_name):
        found = _rated(grader, task_name, rows, key[:-1])
    else:
        found = _told(grader.grade(task_name, [*rows.select("text", "gold").iter_rows()]))
    return pl.concat([rows.select(*key, "split"), found], how="horizontal")


def is_judged(task_name: str) -> bool:
    """Whether a judge rates this task's texts."""
    return hasattr(TASKS[task_name], "requests")


def _told(verdicts: list[Verdict]) -> pl.DataFrame:
    found = pl.DataFrame(verdicts, schema=dict.fromkeys(Verdict._fields, pl.String), orient="row")
    return found.with_columns(rating=pl.lit(None, pl.Float32))


def _rated(grader: Grader, task_name: str, rows: pl.DataFrame, key: list[str]) -> pl.DataFrame:
    """The same columns from ratings; `rows` are sorted by conversation and turn."""
    talks = rows.group_by(key, maintain_order=True).agg("text", pl.first("gold")).select("text", "gold")
    ratings = [rating for own in grader.rate(task_name, [*talks.iter_rows()]) for rating in own]
    return pl.DataFrame([_rating_row(rating) for rating in ratings], schema=RATED)


RATED = dict.fromkeys(Verdict._fields, pl.String) | {"rating": pl.Float32}


def _rating_row(rating: Rating | None) -> dict:
    row = dict.fromkeys(RATED)
    if rating is None:
        return row
    spelt = None if rating.rating is None else f"{rating.rating:g}"
    outcome = "unrated" if spelt is None else "rated"
    return row | {"extracted": spelt, "outcome": outcome, "detail": rating.text, "rating": rating.rating}


def grade_models(settings: Settings, model: str) -> None:
    """Grade what a model wrote alone; writes data/graded/models/<model>/."""
    settings.model(model)
    _grade(settings, paths.dumps(model), paths.model_grades(model), MODEL_GRADES)


def grade_pair(settings: Settings, pair: str) -> None:
    """Grade what a pair's policies wrote; writes data/graded/pairs/<pair>/."""
    settings.pair(pair)
    _grade(settings, paths.rollouts(pair), paths.policy_grades(pair), POLICY_GRADES)


def _grade(settings: Settings, source: Path, out: Path, schema: pa.Schema) -> None:
    said, grader = [], Grader(settings)
    with files.atomic_folder(out) as folder:
        for name, dataset in settings.datasets.items():
            prompts = parquet.read(paths.prompts(name))
            texts = parquet.read(source / name / "texts-*.parquet")
            graded = grade_texts(grader, dataset.task, prompts, texts)
            parquet.write(folder / f"{name}.parquet", graded, schema)
            said.append(f"{name} {_tally(dataset.task, graded)}")
    console.done(f"{out}: {'; '.join(said)}")


def _tally(task_name: str, graded: pl.DataFrame) -> str:
    column, words = "verdict", ("right", "wrong", "unknown")
    if is_judged(task_name):
        column, words = "outcome", ("rated", "unrated")
        if graded["outcome"].null_count() == len(graded):
            return (
                f"{len(graded)} texts, not rated: set FSGEN_JUDGE_MODEL, then 'dvc repro --force' this stage"
            )
    counts = dict(graded[column].value_counts().iter_rows())
    return f"{len(graded)} texts, " + ", ".join(f"{counts.get(word, 0)} {word}" for word in words)


def grade_rows(grader: Grader, task_name: str, rows: list[dict]) -> list[dict]:
    """What is found of rows that hold the task's gold columns and `text` (answers, of a conversation).

    Returns verdict, extracted and, where there are any, outcome, detail and rating, for each turn of
    a conversation in a list. Raises Complaint where a row lacks a column.
    """
    for number, row in enumerate(rows, 1):
        missing = {*TASKS[task_name].GOLD, "text"} - row.keys()
        if missing:
            raise UserError(
                f"Row {number} should hold {', '.join(TASKS[task_name].GOLD)} and text, as {task_name} names "
                f"them, got no '{min(missing)}'; add it."
            )
    golds = [json.dumps({k: v for k, v in row.items() if k != "text"}, sort_keys=True) for row in rows]
    texts = [(row["text"], gold) for row, gold in zip(rows, golds, strict=True)]
    if is_judged(task_name):
        return [{"turns": [_short(_rating_row(r)) for r in own]} for own in grader.rate(task_name, texts)]
    return [_short(verdict._asdict()) for verdict in grader.grade(task_name, texts)]


def _short(found: dict) -> dict:
    """Without what does not concern the task."""
    always = ("verdict", "extracted")
    return {name: value for name, value in found.items() if name in always or value is not None}
