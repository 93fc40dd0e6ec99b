"""Every text gets its verdict: cut first, graded once, the same whatever the number of processes."""

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import polars as pl
import pyarrow as pa
import pytest

from fsgen.cli import __main__
from fsgen.errors import UserError
from fsgen.tables import parquet
from fsgen.tasks import grade, gsm8k, math500, mbpp, mtbench, protocol
from fsgen.tasks.grade import Answer, Grader
from fsgen.tasks.graders import judge
from fsgen.tasks.graders.judge import Rating

GOLD = json.dumps({"answer": "#### 18"})


def grader(workers: int = 1, allow_code_execution: bool = False, sandbox_mode: str = "strict") -> Grader:
    """One that may not run code unless it is allowed."""
    return Grader(allow_code_execution, sandbox_mode, workers)


PROBLEMS = pl.DataFrame(
    {
        "prompt_id": ["a", "b", "c"],
        "split": ["test", "calibration", "test"],
        "gold": [json.dumps({"answer": f"#### {n}"}) for n in (18, 7, 3)],
    }
)
TEXTS = [
    {"prompt_id": "c", "turn": 1, "text": "I cannot say."},
    {"prompt_id": "a", "turn": 1, "text": "That is 18.\n#### 18\n\nQuestion: 5 cats?\nAnswer: 5\n#### 5"},
    {"prompt_id": "b", "turn": 1, "text": "#### 18"},
]


def test_texts_are_cut_at_the_stop_string_before_they_are_graded():
    """A base model that runs on into the next question is judged by its own answer."""
    assert grader().grade(gsm8k.TASK, [Answer(TEXTS[1]["text"], GOLD)])[0].verdict == "right"
    assert gsm8k.grade(TEXTS[1]["text"], {"answer": "#### 18"}).verdict == "wrong"


def test_the_first_of_several_stop_strings_cuts():
    """Whatever their order in the list; without one the text is whole."""
    assert protocol.truncate_at_stop("one two three", ("three", "two")) == "one "
    assert protocol.truncate_at_stop("one two three", ("four",)) == "one two three"
    assert protocol.truncate_at_stop("one two three", ()) == "one two three"


def test_every_text_gets_a_verdict_even_one_without_an_answer():
    """Sorted by prompt; an answer that is not there is unknown, not a missing row."""
    graded = grade.grade_texts(grader(), gsm8k.TASK, PROBLEMS, pl.DataFrame(TEXTS))

    assert graded.rows() == [
        ("a", 1, "test", "right", "18", "right", "right", None, None, None),
        ("b", 1, "calibration", "wrong", "18", "wrong", "wrong", None, None, None),
        ("c", 1, "test", "unknown", None, "unknown", "unknown", None, None, None),
    ]
    assert graded.columns == grade.MODEL_GRADES.names


def test_policies_are_kept_and_sorted_first():
    """Two policies on the same prompts give two rows a prompt, whatever the order they came in."""
    texts = pl.DataFrame([row | {"policy": policy} for row in TEXTS for policy in ("y", "x")])

    graded = grade.grade_texts(grader(), gsm8k.TASK, PROBLEMS, texts)

    assert graded.columns == grade.POLICY_GRADES.names
    assert graded["policy"].to_list() == ["x"] * 3 + ["y"] * 3
    assert graded.equals(grade.grade_texts(grader(), gsm8k.TASK, PROBLEMS, texts.reverse()))


def test_a_text_without_a_prompt_is_an_error():
    """It would otherwise leave the accuracy without a word."""
    with pytest.raises(UserError, match="answers 'c', which is none of the 2 prompts"):
        grade.grade_texts(grader(), gsm8k.TASK, PROBLEMS[:2], pl.DataFrame(TEXTS))


def test_texts_of_a_model_that_wrote_nothing_give_an_empty_table():
    """No rows, but every column with its type."""
    graded = grade.grade_texts(grader(), gsm8k.TASK, PROBLEMS, pl.DataFrame(TEXTS)[:0])

    assert graded.columns == grade.MODEL_GRADES.names
    assert set(graded.drop("turn", "rating").dtypes) == {pl.String}


SUMS = [Answer(f"So \\boxed{{{i}}}", json.dumps({"answer": str(i % 5)})) for i in range(12)]
TESTED = json.dumps({"test_list": ["assert add(1) == 3"], "test_setup_code": ""})
CODE = [Answer(f"```python\ndef add(a):\n    return a + {i}\n```", TESTED) for i in (1, 2, 3, 2)]


@pytest.mark.long
def test_the_number_of_processes_changes_no_verdict():
    """Formulas and programs, in the order of the texts, by one worker and by three."""
    for task, answers in ((math500.TASK, SUMS), (mbpp.TASK, CODE)):
        alone, together = (
            grader(workers, allow_code_execution=True, sandbox_mode="weak").grade(task, answers)
            for workers in (1, 3)
        )

        assert alone == together
        assert {verdict.verdict for verdict in alone} == {"right", "wrong"}
    assert [verdict.outcome for verdict in alone] == ["fail", "pass", "fail", "pass"]


@pytest.mark.long
def test_a_text_that_takes_too_long_is_unknown_and_the_others_are_graded():
    """Its worker is ended and replaced; the reason is stated."""
    task = replace(math500.TASK, limit_s=4)
    slow = Answer("\\boxed{9^{9^{9^{9}}}}", json.dumps({"answer": "1"}))

    result = grader(1).grade(task, [SUMS[0], slow, SUMS[1]])

    assert [verdict.verdict for verdict in result] == ["right", "unknown", "right"]
    assert result[1].detail == "grading took longer than 4 s"


def test_equal_texts_are_graded_once():
    """Policies often write the same; each gets its verdict all the same."""
    requested = []
    task = replace(gsm8k.TASK, grade=lambda text, gold: requested.append(text))

    assert grader().grade(task, [Answer(text, GOLD) for text in "aba"]) == [None] * 3
    assert requested == ["a", "b"]


def test_code_runs_by_leave_alone(capsys):
    """Refused in one sentence; where it is allowed, the protections in force are said once."""
    with pytest.raises(UserError, match=r"set 'allow_code_execution: true' in params\.yaml"):
        grader().grade(mbpp.TASK, CODE)
    allowed = grader(allow_code_execution=True, sandbox_mode="weak")
    for _ in range(2):
        allowed.grade(mbpp.TASK, CODE[:1])

    assert capsys.readouterr().err.count("fsgen: sandbox in force: own session, limits on CPU time") == 1


TALK = json.dumps({"category": "math", "turns": ["2 + 2?", "And squared?"]})
TALKS = pl.DataFrame({"prompt_id": ["q"] * 2, "turn": pl.Series([1, 2], dtype=pl.Int32), "text": ["4", "16"]})
ASKED = pl.DataFrame({"prompt_id": ["q"], "split": ["test"], "gold": [TALK]})


def test_without_a_judge_there_is_no_rating_and_no_verdict(monkeypatch):
    """Absent, which is neither wrong nor zero."""
    monkeypatch.delenv("FSGEN_JUDGE_MODEL", raising=False)
    graded = grade.grade_texts(grader(), mtbench.TASK, ASKED, TALKS)

    assert graded.rows() == [("q", turn, "test", *[None] * 7) for turn in (1, 2)]
    assert grade.grade_rows(grader(), "mtbench", [json.loads(TALK) | {"text": ["4", "16"]}]) == [
        {"turns": [{"verdict": None, "extracted": None}] * 2}
    ]


def test_a_judges_words_are_kept_and_a_reply_without_a_rating_is_counted(monkeypatch):
    """One request a turn, with the conversation up to it; the reply is stored with the rating."""
    replies = [Rating(8.5, "Good. [[8.5]]", "j"), Rating(None, "I cannot say.", "j")]
    requested = []

    def rate(requests, cache):
        requested.extend(requests)
        return replies

    monkeypatch.setattr(judge, "judge_from_environment", lambda: SimpleNamespace(rate=rate))
    graded = grade.grade_texts(grader(), mtbench.TASK, ASKED, TALKS)

    assert [request.answers for request in requested] == [("4",), ("4", "16")]
    assert graded.select("extracted", "outcome", "detail", "rating").rows() == [
        ("8.5", "rated", "Good. [[8.5]]", 8.5),
        (None, "unrated", "I cannot say.", None),
    ]
    assert graded["verdict"].null_count() == 2


def test_rows_of_a_file_are_graded_as_texts_are(monkeypatch):
    """By the hub's column names, cut at the stop string; a missing column is named."""
    rows = [{"answer": "#### 18", "text": "#### 18\n\nQuestion: and 5?\n#### 5", "question": "?"}]

    assert grade.grade_rows(grader(), "gsm8k", rows) == [
        {"verdict": "right", "extracted": "18", "strict": "right", "flexible": "right"}
    ]
    with pytest.raises(
        UserError, match="Row 1 should hold answer and text, as gsm8k names them, got no 'answer'"
    ):
        grade.grade_rows(grader(), "gsm8k", [{"text": "#### 18"}])


def test_the_command_line_prints_an_object_a_line(tmp_path, capsys, monkeypatch):
    """`fsgen grade TASK FILE` says what the grade stage would."""
    monkeypatch.chdir(Path(__file__).parents[2])
    file = tmp_path / "said.jsonl"
    file.write_text("".join(json.dumps({"answer": "#### 18", "text": f"#### {n}"}) + "\n" for n in (18, 19)))
    monkeypatch.setattr("sys.argv", ["fsgen", "grade", "gsm8k", str(file)])

    __main__.main()

    message = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["verdict"] for row in message] == ["right", "wrong"]
    monkeypatch.setattr("sys.argv", ["fsgen", "grade", "gms8k", str(file)])
    with pytest.raises(SystemExit):
        __main__.main()
    assert "did you mean 'gsm8k'" in capsys.readouterr().err


def write_texts(folder: str, texts: pl.DataFrame) -> None:
    """Two shards, as a dump leaves them."""
    kinds = {"turn": pa.int32()}
    schema = parquet.schema([(name, kinds.get(name, pa.string()), name) for name in texts.columns])
    for i, rows in enumerate((texts[:10], texts[10:])):
        parquet.write(Path(folder) / f"texts-{i:04d}.parquet", rows, schema)


def echo(prompts: pl.DataFrame) -> pl.DataFrame:
    """Texts that say 5 to every problem."""
    return prompts.select("prompt_id", turn=pl.lit(1), text=pl.lit("#### 5"))


def test_a_model_is_graded_on_all_its_shards(sums, capsys):
    """One right answer out of forty, in one folder that appears whole."""
    write_texts("data/dumps/m/sums", echo(sums.prompts))
    capsys.readouterr()

    grade.grade_models(sums.settings, "m")

    graded = parquet.read("data/graded/models/m/sums.parquet")
    assert graded.filter(verdict="right")["prompt_id"].to_list() == ["gsm8k-test-0004"]
    assert capsys.readouterr().out == ("data/graded/models/m: sums 40 texts, 1 right, 39 wrong, 0 unknown\n")


def test_a_pair_is_graded_policy_by_policy(sums):
    """Graded twice, the file is the same to the byte."""
    texts = pl.concat([echo(sums.prompts).select(pl.lit(p).alias("policy"), pl.all()) for p in "yx"])
    write_texts("data/rollouts/duo/sums", texts)
    bytes_of = []
    for _ in range(2):
        grade.grade_pair(sums.settings, "duo")
        bytes_of.append(Path("data/graded/pairs/duo/sums.parquet").read_bytes())

    graded = parquet.read("data/graded/pairs/duo/sums.parquet")
    assert graded.filter(verdict="right")["policy"].to_list() == ["x", "y"]
    assert bytes_of[0] == bytes_of[1]


def test_a_failed_grading_leaves_the_earlier_folder(sums):
    """Verdicts are replaced when all of them are there, not before."""
    write_texts("data/dumps/m/sums", echo(sums.prompts))
    grade.grade_models(sums.settings, "m")
    earlier = Path("data/graded/models/m/sums.parquet").read_bytes()
    write_texts("data/dumps/m/sums", echo(sums.prompts).with_columns(prompt_id=pl.lit("stranger")))

    with pytest.raises(UserError, match="answers 'stranger'"):
        grade.grade_models(sums.settings, "m")
    assert Path("data/graded/models/m/sums.parquet").read_bytes() == earlier
