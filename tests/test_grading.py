"""Every text gets its verdict: cut first, graded once, the same whatever the number of processes."""

import json
from pathlib import Path
from types import SimpleNamespace

import polars as pl
import pyarrow as pa
import pytest

from fsgen import benchmarks, grading, settings, store, texts
from fsgen.grading import Grader
from fsgen.settings import Dataset, Pair
from fsgen.tasks import gsm8k
from fsgen.typed import Complaint

GOLD = json.dumps({"answer": "#### 18"})


def grader(jobs: int = 1, **given) -> Grader:
    """One whose settings hold what grading looks at."""
    return Grader(SimpleNamespace(**{"allow_code_execution": False, "sandbox": "strict"} | given), jobs)


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
    assert grader().grade("gsm8k", [(TEXTS[1]["text"], GOLD)])[0].verdict == "right"
    assert gsm8k.grade(TEXTS[1]["text"], {"answer": "#### 18"}).verdict == "wrong"


def test_the_first_of_several_stop_strings_cuts():
    """Whatever their order in the list; without one the text is whole."""
    assert texts.cut("one two three", ("three", "two")) == "one "
    assert texts.cut("one two three", ("four",)) == "one two three"
    assert texts.cut("one two three", ()) == "one two three"


def test_every_text_gets_a_verdict_even_one_without_an_answer():
    """Sorted by prompt; an answer that is not there is unknown, not a missing row."""
    graded = grading.grade_texts(grader(), "gsm8k", PROBLEMS, pl.DataFrame(TEXTS))

    assert graded.rows() == [
        ("a", 1, "test", "right", "18", "right", "right", None, None, None),
        ("b", 1, "calibration", "wrong", "18", "wrong", "wrong", None, None, None),
        ("c", 1, "test", "unknown", None, "unknown", "unknown", None, None, None),
    ]
    assert graded.columns == grading.GRADED.names


def test_policies_are_kept_and_sorted_first():
    """Two policies on the same prompts give two rows a prompt, whatever the order they came in."""
    texts = pl.DataFrame([row | {"policy": policy} for row in TEXTS for policy in ("y", "x")])

    graded = grading.grade_texts(grader(), "gsm8k", PROBLEMS, texts)

    assert graded.columns == grading.GRADED_PAIR.names
    assert graded["policy"].to_list() == ["x"] * 3 + ["y"] * 3
    assert graded.equals(grading.grade_texts(grader(), "gsm8k", PROBLEMS, texts.reverse()))


def test_a_text_without_a_prompt_is_an_error():
    """It would otherwise leave the accuracy without a word."""
    with pytest.raises(Complaint, match="answers 'c', which is none of the 2 prompts"):
        grading.grade_texts(grader(), "gsm8k", PROBLEMS[:2], pl.DataFrame(TEXTS))


def test_texts_of_a_model_that_wrote_nothing_give_an_empty_table():
    """No rows, but every column with its type."""
    graded = grading.grade_texts(grader(), "gsm8k", PROBLEMS, pl.DataFrame(TEXTS)[:0])

    assert graded.columns == grading.GRADED.names
    assert set(graded.drop("turn", "rating").dtypes) == {pl.String}


@pytest.fixture
def project(tmp_path, monkeypatch) -> SimpleNamespace:
    """An empty project folder with forty sums as a local GSM8K file, one model and one pair."""
    monkeypatch.chdir(tmp_path)
    rows = [{"question": f"{i} + 1?", "answer": f"#### {i + 1}"} for i in range(40)]
    Path("sums.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    entries = {
        "seed": 7,
        "datasets": {"sums": Dataset(task="gsm8k", path="sums.jsonl", max_new_tokens=8)},
        "models": {"m": None},
        "pairs": {"duo": Pair(small="m", tuned="m", large="n")},
    }
    rest = dict.fromkeys(("methods", "routers", "policies", "dump", "compute"))
    made = settings.Settings(**entries, **rest)
    benchmarks.write_prompts(made, "sums")
    return SimpleNamespace(settings=made, prompts=store.read("data/prompts/sums.parquet"))


def write_texts(folder: str, texts: pl.DataFrame) -> None:
    """Two shards, as a dump leaves them."""
    kinds = {"turn": pa.int32()}
    schema = store.schema([(name, kinds.get(name, pa.string()), name) for name in texts.columns])
    for i, rows in enumerate((texts[:10], texts[10:])):
        store.write(Path(folder) / f"texts-{i:04d}.parquet", rows, schema)


def echo(prompts: pl.DataFrame) -> pl.DataFrame:
    """Texts that say 5 to every problem."""
    return prompts.select("prompt_id", turn=pl.lit(1), text=pl.lit("#### 5"))


def test_a_model_is_graded_on_all_its_shards(project, capsys):
    """One right answer out of forty, in one folder that appears whole."""
    write_texts("data/dumps/m/sums", echo(project.prompts))
    capsys.readouterr()

    grading.grade_solo(project.settings, "m")

    graded = store.read("data/graded/models/m/sums.parquet")
    assert graded.filter(verdict="right")["prompt_id"].to_list() == ["gsm8k-test-0004"]
    assert capsys.readouterr().out == ("data/graded/models/m: sums 40 texts, 1 right, 39 wrong, 0 unknown\n")


def test_a_pair_is_graded_policy_by_policy(project):
    """Graded twice, the file is the same to the byte."""
    texts = pl.concat([echo(project.prompts).select(pl.lit(p).alias("policy"), pl.all()) for p in "yx"])
    write_texts("data/rollouts/duo/sums", texts)
    bytes_of = []
    for _ in range(2):
        grading.grade_pair(project.settings, "duo")
        bytes_of.append(Path("data/graded/pairs/duo/sums.parquet").read_bytes())

    graded = store.read("data/graded/pairs/duo/sums.parquet")
    assert graded.filter(verdict="right")["policy"].to_list() == ["x", "y"]
    assert bytes_of[0] == bytes_of[1]


def test_a_failed_grading_leaves_the_earlier_folder(project):
    """Verdicts are replaced when all of them are there, not before."""
    write_texts("data/dumps/m/sums", echo(project.prompts))
    grading.grade_solo(project.settings, "m")
    earlier = Path("data/graded/models/m/sums.parquet").read_bytes()
    write_texts("data/dumps/m/sums", echo(project.prompts).with_columns(prompt_id=pl.lit("stranger")))

    with pytest.raises(Complaint, match="answers 'stranger'"):
        grading.grade_solo(project.settings, "m")
    assert Path("data/graded/models/m/sums.parquet").read_bytes() == earlier
