"""The `grade` stages: texts become verdicts, in worker processes if that takes time, or a judge's ratings."""

import json
import os
from dataclasses import dataclass
from itertools import chain, islice
from multiprocessing import get_context
from pathlib import Path
from typing import NamedTuple

import polars as pl
import pyarrow as pa

from fsgen.config.registry import TASKS, resolve
from fsgen.config.schema import Settings
from fsgen.errors import UserError
from fsgen.execution import console
from fsgen.tables import files, parquet, paths
from fsgen.tables.schemas.tasks import MODEL_GRADES, POLICY_GRADES
from fsgen.tasks.graders import judge, sandbox
from fsgen.tasks.graders.judge import Rating
from fsgen.tasks.graders.sandbox import Protections
from fsgen.tasks.protocol import Task, Verdict, truncate_at_stop

JUDGE_REPLIES = files.SCRATCH / "judgements"  # kept, so that no reply is paid for twice
WORKERS = len(os.sched_getaffinity(0))
RATED = dict.fromkeys(Verdict._fields, pl.String) | {"rating": pl.Float32}


class Answer(NamedTuple):
    """A text and what it is compared with."""

    text: str
    gold: str
    """The prompt's gold columns, as a JSON object."""


class Conversation(NamedTuple):
    """The answers of a conversation, in their order, and what a judge needs to know of it."""

    answers: list[str]
    gold: str
    """The prompt's gold columns, as a JSON object."""


class _Job(NamedTuple):
    """One text to grade, as a worker process receives it."""

    task: Task
    answer: Answer
    protections: Protections | None
    """Those of the sandbox, for a task that runs code."""


@dataclass
class Grader:
    """Grades texts by a task's own function or by a judge."""

    allow_code_execution: bool
    sandbox_mode: str
    """`strict`, or `weak` to go on where the machine grants less than the whole sandbox."""
    workers: int = WORKERS
    """Processes that grade side by side."""
    _protections: Protections | None = None

    def protections(self) -> Protections:
        """The protections of the sandbox, reported once; UserError if running code is not allowed."""
        if not self.allow_code_execution:
            raise UserError(
                "Grading code runs programs that models wrote, got no leave to; "
                "set 'allow_code_execution: true' in params.yaml if this machine may do so, in a sandbox."
            )
        if self._protections is None:
            self._protections = sandbox.protections(weak=self.sandbox_mode == "weak")
            console.warn(f"sandbox in force: {self._protections}")
        return self._protections

    def grade(self, task: Task, answers: list[Answer]) -> list[Verdict]:
        """The verdict on every answer, cut at its first stop string; equal answers are graded once."""
        protections = self.protections() if task.runs_code else None
        distinct = list(dict.fromkeys(answers))
        jobs = [_Job(task, answer, protections) for answer in distinct]
        if task.limit_s is None:
            verdicts = [_run_job(job) for job in jobs]
        else:
            verdicts = _run_in_workers(jobs, self.workers, task.limit_s)
        verdict_of = dict(zip(distinct, verdicts, strict=True))
        return [verdict_of[answer] for answer in answers]

    def rate(self, task: Task, conversations: list[Conversation]) -> list[list[Rating | None]]:
        """The rating of every answer of every conversation; None throughout without a judge."""
        rater = judge.judge_from_environment()
        if rater is None:
            return [[None] * len(conversation.answers) for conversation in conversations]
        requests = [task.requests(answers, json.loads(gold)) for answers, gold in conversations]
        ratings = iter(rater.rate(list(chain.from_iterable(requests)), JUDGE_REPLIES))
        return [list(islice(ratings, len(turns))) for turns in requests]


def _run_job(job: _Job) -> Verdict:
    text = truncate_at_stop(job.answer.text, job.task.stops)
    extra = (job.protections,) if job.task.runs_code else ()
    return job.task.grade(text, json.loads(job.answer.gold), *extra)


def _run_in_workers(jobs: list[_Job], workers: int, limit_s: float) -> list[Verdict]:
    """The verdicts in the order of the jobs, for any number of worker processes."""
    from pebble import ProcessPool

    with ProcessPool(max_workers=workers, context=get_context("spawn")) as pool:
        futures = [pool.schedule(_run_job, args=[job], timeout=limit_s) for job in jobs]
        return [_wait_for(future, limit_s) for future in futures]


def _wait_for(future, limit_s: float) -> Verdict:
    """The verdict of a worker, or `unknown` if it took longer than the limit."""
    try:
        return future.result()
    except TimeoutError:
        detail = f"grading took longer than {limit_s:g} s"
        return Verdict("unknown", None, "unknown", "unknown", None, detail)


def grade_models(settings: Settings, model: str) -> None:
    """Grade what a model wrote alone, dataset by dataset."""
    settings.model(model)
    _grade(settings, paths.dumps(model), paths.model_grades(model), MODEL_GRADES)


def grade_pair(settings: Settings, pair: str) -> None:
    """Grade what a pair's policies wrote, dataset by dataset."""
    settings.pair(pair)
    _grade(settings, paths.rollouts(pair), paths.policy_grades(pair), POLICY_GRADES)


def _grade(settings: Settings, source: Path, out: Path, schema: pa.Schema) -> None:
    grader = Grader(settings.allow_code_execution, settings.sandbox)
    summaries = []
    with files.atomic_folder(out) as folder:
        for name, dataset in settings.datasets.items():
            prompts = parquet.read(paths.prompts(name))
            texts = parquet.read(source / name / "texts-*.parquet")
            grades = grade_texts(grader, dataset.definition, prompts, texts)
            parquet.write(folder / f"{name}.parquet", grades, schema)
            summaries.append(f"{name} {_summarize(dataset.definition, grades)}")
    console.done(f"{out}: {'; '.join(summaries)}")


def grade_texts(grader: Grader, task: Task, prompts: pl.DataFrame, texts: pl.DataFrame) -> pl.DataFrame:
    """The grades (MODEL_GRADES, or POLICY_GRADES if texts have a policy), sorted by policy, prompt and turn.

    Raises UserError if a text answers none of the prompts.
    """
    key = [column for column in ("policy", "prompt_id", "turn") if column in texts.columns]
    rows = _join_gold(texts.select(*key, "text"), prompts).sort(key)
    if task.is_judged:
        grades = _rate_rows(grader, task, rows, conversation_key=key[:-1])
    else:
        grades = _grade_rows(grader, task, rows)
    return pl.concat([rows.select(*key, "split"), grades], how="horizontal")


def _join_gold(texts: pl.DataFrame, prompts: pl.DataFrame) -> pl.DataFrame:
    """The texts with `split` and `gold` of their prompts."""
    gold = prompts.select("prompt_id", "split", "gold")
    rows = texts.join(gold, on="prompt_id", how="left", validate="m:1")
    for orphan in rows.filter(pl.col("gold").is_null())["prompt_id"].sort():
        raise UserError(
            f"A text answers '{orphan}', which is none of the {len(prompts)} prompts; "
            "rerun the stages from 'prompts' on."
        )
    return rows


def _grade_rows(grader: Grader, task: Task, rows: pl.DataFrame) -> pl.DataFrame:
    """The columns of `Verdict`, and an empty `rating`."""
    verdicts = grader.grade(task, [Answer(*row) for row in rows.select("text", "gold").iter_rows()])
    grades = pl.DataFrame(verdicts, schema=dict.fromkeys(Verdict._fields, pl.String), orient="row")
    return grades.with_columns(rating=pl.lit(None, pl.Float32))


def _rate_rows(grader: Grader, task: Task, rows: pl.DataFrame, conversation_key: list[str]) -> pl.DataFrame:
    """The same columns from ratings; `rows` are sorted by conversation and turn."""
    grouped = rows.group_by(conversation_key, maintain_order=True).agg("text", pl.first("gold"))
    conversations = [Conversation(*row) for row in grouped.select("text", "gold").iter_rows()]
    ratings = chain.from_iterable(grader.rate(task, conversations))
    return pl.DataFrame([_rating_columns(rating) for rating in ratings], schema=RATED)


def _rating_columns(rating: Rating | None) -> dict:
    """The columns of RATED for one rating; all None without a judge."""
    columns = dict.fromkeys(RATED)
    if rating is None:
        return columns
    extracted = None if rating.rating is None else f"{rating.rating:g}"
    outcome = "unrated" if rating.rating is None else "rated"
    return columns | {
        "extracted": extracted,
        "outcome": outcome,
        "detail": rating.text,
        "rating": rating.rating,
    }


def _summarize(task: Task, grades: pl.DataFrame) -> str:
    """How many texts got which verdict, or were rated."""
    if task.is_judged and grades["outcome"].null_count() == len(grades):
        return f"{len(grades)} texts, not rated: set FSGEN_JUDGE_MODEL, then 'dvc repro --force' this stage"
    column, values = "verdict", ("right", "wrong", "unknown")
    if task.is_judged:
        column, values = "outcome", ("rated", "unrated")
    counts = dict(grades[column].value_counts().iter_rows())
    return f"{len(grades)} texts, " + ", ".join(f"{counts.get(value, 0)} {value}" for value in values)


def grade_rows(grader: Grader, task_name: str, rows: list[dict]) -> list[dict]:
    """The grades of rows that hold the task's gold columns and `text` (a list of answers for a conversation).

    A result holds verdict and extracted and, if there are any, strict, flexible, outcome, detail and rating;
    that of a conversation holds one such result a turn, as a list `turns`. Raises UserError if a row lacks a
    column.
    """
    task = resolve(TASKS, task_name, "the tasks")
    _check_columns(task_name, task.gold, rows)
    golds = [json.dumps({k: v for k, v in row.items() if k != "text"}, sort_keys=True) for row in rows]
    if task.is_judged:
        conversations = [Conversation(row["text"], gold) for row, gold in zip(rows, golds, strict=True)]
        rated = grader.rate(task, conversations)
        return [{"turns": [_drop_empty(_rating_columns(rating)) for rating in turns]} for turns in rated]
    answers = [Answer(row["text"], gold) for row, gold in zip(rows, golds, strict=True)]
    return [_drop_empty(verdict._asdict()) for verdict in grader.grade(task, answers)]


def _check_columns(task_name: str, gold: tuple[str, ...], rows: list[dict]) -> None:
    for number, row in enumerate(rows, 1):
        missing = {*gold, "text"} - row.keys()
        if missing:
            raise UserError(
                f"Row {number} should hold {', '.join(gold)} and text, as {task_name} names "
                f"them, got no '{min(missing)}'; add it."
            )


def _drop_empty(grade: dict) -> dict:
    """The grade without empty fields, except `verdict` and `extracted`."""
    kept = ("verdict", "extracted")
    return {name: value for name, value in grade.items() if name in kept or value is not None}
