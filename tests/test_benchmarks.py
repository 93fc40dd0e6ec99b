"""Prompts keep their places and their splits, and every text gets its verdict."""

import json
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import hypothesis
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import strategies as st

from fsgen import benchmarks, settings, store
from fsgen.settings import Dataset, Pair
from fsgen.tasks import gsm8k
from fsgen.typed import Complaint


def fake(count: int) -> SimpleNamespace:
    """A task of `count` rows whose right answer is the row's own name."""
    return SimpleNamespace(
        load=lambda dataset: [{"prompt_id": f"fake-{i:03d}", "name": f"{i}"} for i in range(count)],
        exemplars=lambda dataset: [{"name": "x"}] * dataset.shots,
        messages=lambda row, shown: [{"role": "user", "content": row["name"]}],
        plain=lambda row, shown: " ".join(e["name"] for e in [*shown, row]),
        STOPS=("\nStop",),
        GOLD=("name",),
    )


def build(count: int, seed: int = 1, **given) -> pl.DataFrame:
    entry = Dataset(task="fake", max_new_tokens=8, **given)
    with mock.patch.dict(benchmarks.TASKS, {"fake": fake(count)}):
        return benchmarks.build_prompts("toy", entry, seed)


def test_settings_and_benchmarks_know_the_same_tasks():
    """A name that params.yaml may hold is a name that can be run."""
    assert set(benchmarks.TASKS) == set(settings.TASK_NAMES)


@hypothesis.settings(deadline=None)
@hypothesis.given(st.integers(40, 120), st.integers(40, 120), st.integers(0, 2**31))
def test_a_raised_limit_keeps_the_earlier_prompts(low, high, seed):
    """The shorter table is the head of the longer one, row for row and with its splits."""
    low, high = sorted((low, high))

    assert build(120, seed, limit=high)[:low].equals(build(120, seed, limit=low))


def test_a_prompt_keeps_its_split_under_every_seed_and_limit():
    """Seeds reorder; they never move a prompt from calibration to test."""
    first, second = build(120, seed=1), build(120, seed=2, limit=80)
    splits = dict(first.select("prompt_id", "split").iter_rows())

    assert first["prompt_id"].to_list() != build(120, seed=2)["prompt_id"].to_list()
    assert all(splits[name] == split for name, split in second.select("prompt_id", "split").iter_rows())


def test_order_and_split_are_independent():
    """The share of calibration prompts is the same in either half of the order, within five deviations."""
    table = build(4000, calibration=0.25)
    bound = 5 * (0.25 * 0.75 / 2000) ** 0.5

    for half in (table[:2000], table[2000:]):
        assert abs((half["split"] == "calibration").mean() - 0.25) < bound


@pytest.mark.parametrize(("low", "high"), [(0.1, 0.25), (0.25, 0.9)])
def test_a_larger_calibration_share_only_adds(low, high):
    """A prompt's number is fixed; the share is the line it is compared with."""
    few, many = (build(300, calibration=share).filter(split="calibration") for share in (low, high))

    assert set(few["prompt_id"]) < set(many["prompt_id"])


def test_a_limit_beyond_the_rows_takes_all_of_them():
    """Every row once, numbered from 0."""
    table = build(50, limit=1000)

    assert table["order"].to_list() == list(range(50))
    assert sorted(table["prompt_id"]) == [f"fake-{i:03d}" for i in range(50)]


def test_a_prompt_carries_what_the_task_says():
    """Exemplars reach the text; stops and gold columns travel with the row."""
    row = build(50, shots=2).sort("prompt_id").row(7, named=True)

    assert row["plain"] == "x x 7"
    assert row["messages"] == [{"role": "user", "content": "7"}]
    assert row["stops"] == ["\nStop"]
    assert json.loads(row["gold"]) == {"name": "7"}


def test_the_table_survives_the_file(tmp_path):
    """Written under its schema and read back, nothing has changed; written twice, not a byte."""
    table = build(50)
    for name in ("one", "two"):
        store.write(tmp_path / f"{name}.parquet", table, benchmarks.PROMPTS)

    assert store.read(tmp_path / "one.parquet").equals(table)
    assert (tmp_path / "one.parquet").read_bytes() == (tmp_path / "two.parquet").read_bytes()


def test_a_dataset_without_rows_is_refused():
    """Nothing for either split."""
    with pytest.raises(
        Complaint, match=r"datasets\.toy .* got 0 for test and 0 for calibration; raise its limit"
    ):
        build(0)


@pytest.mark.parametrize(("share", "counts"), [(1e-9, "9 for test and 0"), (1 - 1e-9, "0 for test and 9")])
def test_a_split_without_prompts_is_refused(share, counts):
    """Routers need calibration prompts and results need test prompts."""
    with pytest.raises(Complaint, match=f"got {counts}"):
        build(50, limit=9, calibration=share)


def test_two_rows_of_one_name_are_refused():
    """Joins by prompt_id would count them twice."""
    twice = fake(3)
    twice.load = lambda dataset: [{"prompt_id": "fake-000", "name": "0"}] * 2
    with (
        mock.patch.dict(benchmarks.TASKS, {"fake": twice}),
        pytest.raises(Complaint, match="got 'fake-000' twice"),
    ):
        benchmarks.build_prompts("toy", Dataset(task="fake", max_new_tokens=8), 1)


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
    assert benchmarks.grade_text("gsm8k", TEXTS[1]["text"], {"answer": "#### 18"}).verdict == "right"
    assert gsm8k.grade(TEXTS[1]["text"], {"answer": "#### 18"}).verdict == "wrong"


def test_the_first_of_several_stop_strings_cuts():
    """Whatever their order in the list; without one the text is whole."""
    assert benchmarks.cut("one two three", ("three", "two")) == "one "
    assert benchmarks.cut("one two three", ("four",)) == "one two three"
    assert benchmarks.cut("one two three", ()) == "one two three"


def test_every_text_gets_a_verdict_even_one_without_an_answer():
    """Sorted by prompt; an answer that is not there is unknown, not a missing row."""
    graded = benchmarks.grade_texts("gsm8k", PROBLEMS, pl.DataFrame(TEXTS))

    assert graded.rows() == [
        ("a", 1, "test", "right", "18", "right", "right"),
        ("b", 1, "calibration", "wrong", "18", "wrong", "wrong"),
        ("c", 1, "test", "unknown", None, "unknown", "unknown"),
    ]
    assert graded.columns == benchmarks.GRADED.names


def test_policies_are_kept_and_sorted_first():
    """Two policies on the same prompts give two rows a prompt, whatever the order they came in."""
    texts = pl.DataFrame([row | {"policy": policy} for row in TEXTS for policy in ("y", "x")])

    graded = benchmarks.grade_texts("gsm8k", PROBLEMS, texts)

    assert graded.columns == benchmarks.GRADED_PAIR.names
    assert graded["policy"].to_list() == ["x"] * 3 + ["y"] * 3
    assert graded.equals(benchmarks.grade_texts("gsm8k", PROBLEMS, texts.reverse()))


def test_a_text_without_a_prompt_is_an_error():
    """It would otherwise leave the accuracy without a word."""
    with pytest.raises(Complaint, match="answers 'c', which is none of the 2 prompts"):
        benchmarks.grade_texts("gsm8k", PROBLEMS[:2], pl.DataFrame(TEXTS))


def test_texts_of_a_model_that_wrote_nothing_give_an_empty_table():
    """No rows, but every column with its type."""
    graded = benchmarks.grade_texts("gsm8k", PROBLEMS, pl.DataFrame(TEXTS)[:0])

    assert graded.columns == benchmarks.GRADED.names
    assert set(graded.drop("turn").dtypes) == {pl.String}


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


def test_writing_prompts_says_how_many(project, capsys):
    """The closing line counts both splits."""
    benchmarks.write_prompts(project.settings, "sums")
    tests = len(project.prompts.filter(split="test"))

    assert capsys.readouterr().out == (
        f"data/prompts/sums.parquet: {tests} test and {40 - tests} calibration prompts\n"
    )


def test_a_model_is_graded_on_all_its_shards(project, capsys):
    """One right answer out of forty, in one folder that appears whole."""
    write_texts("data/dumps/m/sums", echo(project.prompts))
    capsys.readouterr()

    benchmarks.grade_solo(project.settings, "m")

    graded = store.read("data/graded/models/m/sums.parquet")
    assert graded.filter(verdict="right")["prompt_id"].to_list() == ["gsm8k-test-0004"]
    assert capsys.readouterr().out == ("data/graded/models/m: sums 40 texts, 1 right, 39 wrong, 0 unknown\n")


def test_a_pair_is_graded_policy_by_policy(project):
    """Graded twice, the file is the same to the byte."""
    texts = pl.concat([echo(project.prompts).select(pl.lit(p).alias("policy"), pl.all()) for p in "yx"])
    write_texts("data/rollouts/duo/sums", texts)
    bytes_of = []
    for _ in range(2):
        benchmarks.grade_pair(project.settings, "duo")
        bytes_of.append(Path("data/graded/pairs/duo/sums.parquet").read_bytes())

    graded = store.read("data/graded/pairs/duo/sums.parquet")
    assert graded.filter(verdict="right")["policy"].to_list() == ["x", "y"]
    assert bytes_of[0] == bytes_of[1]


def test_a_failed_grading_leaves_the_earlier_folder(project):
    """Verdicts are replaced when all of them are there, not before."""
    write_texts("data/dumps/m/sums", echo(project.prompts))
    benchmarks.grade_solo(project.settings, "m")
    earlier = Path("data/graded/models/m/sums.parquet").read_bytes()
    write_texts("data/dumps/m/sums", echo(project.prompts).with_columns(prompt_id=pl.lit("stranger")))

    with pytest.raises(Complaint, match="answers 'stranger'"):
        benchmarks.grade_solo(project.settings, "m")
    assert Path("data/graded/models/m/sums.parquet").read_bytes() == earlier


def test_a_misspelt_name_is_refused(project):
    """Dataset, model and pair alike."""
    for call, name in (
        (benchmarks.write_prompts, "sum"),
        (benchmarks.grade_solo, "n"),
        (benchmarks.grade_pair, "duet"),
    ):
        with pytest.raises(Complaint, match=f"'{name}' is not among"):
            call(project.settings, name)
