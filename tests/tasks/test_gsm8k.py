"""GSM8K: which number a text says, what a model is asked, and what happens with rows that are not there."""

import json
import os
import sys
from pathlib import Path
from types import SimpleNamespace

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fsgen.config.schema import DatasetConfig
from fsgen.errors import UserError
from fsgen.tasks import gsm8k

R, W, U = "right", "wrong", "unknown"

# text, gold, extracted, strict, flexible; the verdict is strict's unless that is unknown
CASES = [
    # the mark and what stands behind it
    ("#### 18", "18", "18", R, R),
    ("She makes 9 * 2 = $18 every day.\n#### 18", "18", "18", R, R),
    ("####18", "18", "18", R, R),
    ("####\n18", "18", "18", R, R),
    ("##### 18", "18", "18", R, R),
    ("#### **18**", "18", "18", R, R),
    ("#### $18$", "18", "18", R, R),
    ("#### \\$18", "18", "18", R, R),
    ("#### 18 dollars", "18", "18", R, R),
    ("#### 18.", "18", "18", R, R),
    ("#### Answer: 18", "18", "18", R, R),
    ("#### The final answer is 18.", "18", "18", R, R),
    ("#### 18 (16 - 3 - 4 = 9 eggs)", "18", "18", R, W),
    ("#### 18\nThat took 2 steps.", "18", "18", R, W),
    ("#### 18 = 9 * 2", "18", "18", R, W),
    ("#### 17\nNo, 18.", "18", "17", W, R),
    ("#### 5\nThat was the first example.\n#### 18", "18", "18", R, R),
    ("#### 18\nThat was the first example.\n#### 5", "18", "5", W, W),
    ("#### 18\nA mark without a number:\n####", "18", "18", U, R),
    ("So 18.\n#### none", "18", "18", U, R),
    # an operation or a heading behind the mark is no answer
    ("#### 9 * 2 = 18", "18", "18", U, R),
    ("#### 9*2=<<9*2=18>>18", "18", "18", U, R),
    ("#### 16 - 3 - 4", "16", "4", U, W),
    ("#### 3 x 6 is 18", "18", "18", U, R),
    ("#### 2. Add them up\nThat gives 18.", "18", "18", U, R),
    ("#### Step 2: add them up\nThat gives 18.", "18", "18", U, R),
    ("### 18", "18", "18", U, R),
    # thousands: the commas that made wrong answers right and right ones wrong
    ("#### 18,000", "20,000", "18000", W, W),
    ("The total is 7,000", "1,000", "7000", U, W),
    ("The profit is 70,000", "70000", "70000", U, R),
    ("The profit is 70000", "70,000", "70000", U, R),
    ("#### 1,450,000", "1450000", "1450000", R, R),
    ("That is $2,125.50.", "2125.5", "2125.50", U, R),
    ("\\boxed{70{,}000}", "70000", "70000", U, R),
    ("He gets 1,2,3", "3", "3", U, R),
    ("He gets 5, 10, 15", "15", "15", U, R),
    ("He gets 1,0000", "10000", "0000", U, W),
    # money, percent, units and the end of a sentence
    ("She earns $18.00", "18", "18.00", U, R),
    ("She earns $18.00 per day.", "18", "18.00", U, R),
    ("It costs £18", "18", "18", U, R),
    ("It rose by 150%", "150", "150", U, R),
    ("It rose by 150%.", "150", "150", U, R),
    ("He drives 60km", "60", "60", U, R),
    ("The floor has 20 m2", "20", "20", U, R),
    ("The floor has 20 m^2", "20", "20", U, R),
    ("The floor has 20 m^{2}", "20", "20", U, R),
    ("The floor has 20 m²", "20", "20", U, R),
    ("In all 18...", "18", "18", U, R),
    ("**18**", "18", "18", U, R),
    ("_18_", "18", "18", U, R),
    # signs
    ("-5", "5", "-5", U, W),
    ("-5", "-5", "-5", U, R),
    ("#### -10", "-10", "-10", R, R),
    ("#### -10", "10", "-10", W, W),
    ("#### \u221210", "-10", "-10", R, R),
    ("The change is \u22123 degrees", "-3", "-3", U, R),
    ("The balance is -$5", "-5", "-5", U, R),
    ("The balance is $-5", "-5", "-5", U, R),
    ("The balance is (-5)", "-5", "-5", U, R),
    ("x=-5", "-5", "-5", U, R),
    ("5-3", "3", "3", U, R),
    ("5 - 3", "3", "3", U, R),
    ("5 -3", "3", "3", U, R),
    ("$5-$3", "3", "3", U, R),
    ("(9+1)-3", "3", "3", U, R),
    ("50%-3", "3", "3", U, R),
    ("5*-3", "-3", "-3", U, R),
    ("pages 5\u201310", "10", "10", U, R),
    ("covid-19", "19", "19", U, R),
    ("We are left with\n-5", "-5", "-5", U, R),
    # decimals and fractions are compared exactly
    ("18.00", "18", "18.00", U, R),
    ("018", "18", "018", U, R),
    ("18.01", "18", "18.01", U, W),
    (".5", "0.5", ".5", U, R),
    ("0.1000000000000000000001", "0.1", "0.1000000000000000000001", U, W),
    ("1/2", "0.5", "1/2", U, R),
    ("1/2", "2", "1/2", U, W),
    ("48/2 = 24", "24", "24", U, R),
    ("5/0", "5", "0", U, W),
    ("9" * 5000, "9", "9" * 5000, U, W),
    # nothing to be found
    ("", "18", None, U, U),
    ("eighteen", "18", None, U, U),
    ("####", "18", None, U, U),
    ("B12 and CO2", "12", None, U, U),
    ("I do not know.", "0", None, U, U),
]


def row(answer: str) -> dict:
    return {"answer": f"Some steps.\n#### {answer}"}


@pytest.mark.parametrize(("text", "gold", "extracted", "strict", "flexible"), CASES)
def test_a_text_says_the_number_a_reader_would_take(text, gold, extracted, strict, flexible):
    """Hand-made cases; the strict verdict counts wherever the format is kept."""
    verdict = strict if strict != U else flexible

    assert (verdict, extracted, strict, flexible, None, None) == gsm8k.grade(text, row(gold))


def test_the_table_of_cases_is_large_enough():
    """No case stands twice, and there are more than sixty."""
    assert len({case[:2] for case in CASES}) == len(CASES) > 60


@settings(deadline=None)
@given(st.integers(-(10**9), 10**9))
def test_a_number_is_right_however_it_is_written(number):
    """With and without commas, decimals, currency and mark."""
    for written in (f"{number}", f"{number:,}", f"{number}.00", f"{number:,}.", f"${number:,} in all"):
        message = gsm8k.grade(f"That makes {written}", row(f"{number:,}"))

        assert (message.verdict, message.strict, message.flexible) == ("right", "unknown", "right")
        assert gsm8k.grade(f"#### {written}", row(str(number))).strict == "right"


@settings(deadline=None)
@given(st.text(alphabet="0123456789,./-#$ \n(){}^x\u2212", max_size=40))
def test_no_text_breaks_the_grader(text):
    """Whatever a model writes, verdict and extracted number agree on whether there is an answer."""
    message = gsm8k.grade(text, row("18"))

    assert (message.extracted is None) == (message.verdict == "unknown")
    assert message.verdict == (message.flexible if message.strict == "unknown" else message.strict)


def test_a_gold_answer_without_the_mark_counts_by_its_last_number():
    """A local file may hold the bare number."""
    assert gsm8k.grade("#### 18", {"answer": "18"}).verdict == "right"


def test_a_gold_answer_without_a_number_is_refused():
    """A row that nothing could answer is a fault of the file, not of the model."""
    with pytest.raises(UserError, match="should end in '#### <number>', got 'none'"):
        gsm8k.grade("#### 18", {"answer": "none"})


TRAIN = [
    {"question": "How many legs have 2 cats?", "answer": "2*4 = <<2*4=8>>8 legs.\n#### 8"},
    {"question": "How many legs have 3 hens?", "answer": "3*2 = <<3*2=6>>6 legs.\n#### 6"},
]
TEST = [{"question": "How many legs has a cow?", "answer": "It has 4 legs.\n#### 4"}]


@pytest.fixture
def school(tmp_path) -> Path:
    """A folder with a train and a test split."""
    for split, rows in {"train": TRAIN, "test": TEST}.items():
        (tmp_path / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path


def dataset(path: Path | None, **given) -> DatasetConfig:
    return DatasetConfig(task="gsm8k", max_new_tokens=64, path=None if path is None else str(path), **given)


def test_rows_are_named_by_split_and_place(school):
    """Ids count rows from 0 with four digits; columns keep the hub's names."""
    (only,) = gsm8k.prompts(dataset(school))

    assert (only.prompt_id, only.gold) == ("gsm8k-test-0000", {"answer": TEST[0]["answer"]})
    assert [prompt.prompt_id for prompt in gsm8k.prompts(dataset(school, split="train"))] == [
        "gsm8k-train-0000",
        "gsm8k-train-0001",
    ]


def test_parquet_reads_as_json_lines_do(school, tmp_path):
    """Either file of a folder gives the same rows, and so does a single file."""
    folder = tmp_path / "parquet"
    folder.mkdir()
    pl.DataFrame(TEST).write_parquet(folder / "test.parquet")

    assert gsm8k.prompts(dataset(school)) == gsm8k.prompts(dataset(folder))
    assert gsm8k.prompts(dataset(school)) == gsm8k.prompts(dataset(folder / "test.parquet"))


def test_a_plain_prompt_shows_the_first_train_rows_and_stops_before_the_answer(school):
    """Exemplars lose the calculator's annotations; no blank follows the last colon."""
    (prompt,) = gsm8k.prompts(dataset(school, shots=2))

    assert prompt.plain == (
        "Question: How many legs have 2 cats?\nAnswer: 2*4 = 8 legs.\n#### 8\n\n"
        "Question: How many legs have 3 hens?\nAnswer: 3*2 = 6 legs.\n#### 6\n\n"
        "Question: How many legs has a cow?\nAnswer:"
    )


def test_a_chat_shows_exemplars_as_earlier_turns(school):
    """System, then question and answer in turn, then the question; the format is asked for."""
    turns = gsm8k.prompts(dataset(school, shots=1))[0].messages

    assert [turn["role"] for turn in turns] == ["system", "user", "assistant", "user"]
    assert "#### <number>" in turns[0]["content"]
    assert turns[2]["content"].endswith("\n#### 8")
    assert turns[3]["content"] == TEST[0]["question"]


def test_a_run_on_plain_text_meets_the_stop_string_and_an_answer_does_not(school):
    """What follows a prompt's own blocks is the next question; the answers themselves hold no stop."""
    (prompt,) = gsm8k.prompts(dataset(school, shots=2))

    assert prompt.plain.count(gsm8k.TASK.stops[0]) == 2
    assert not any(stop in row["answer"] for row in TRAIN + TEST for stop in gsm8k.TASK.stops)


def test_the_hub_is_asked_by_id_and_configuration(monkeypatch):
    """Without a path the rows are those of openai/gsm8k, main."""
    requested = []

    def load_dataset(*args, **options):
        requested.append((args, options))
        return SimpleNamespace(to_list=lambda: TEST)

    monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace(load_dataset=load_dataset))

    assert gsm8k.prompts(dataset(None))[0].messages[-1]["content"] == TEST[0]["question"]
    assert requested == [(("openai/gsm8k", "main"), {"split": "test"})]


@pytest.mark.parametrize(
    "error", [ConnectionError("Couldn't reach it"), ValueError("Unknown split"), OSError()]
)
def test_a_hub_out_of_reach_is_one_sentence(monkeypatch, error):
    """Offline, gated or misspelled: the sentence names the dataset and the way out."""

    def load_dataset(*_, **__):
        raise error

    monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace(load_dataset=load_dataset))

    with pytest.raises(UserError, match=r"^'openai/gsm8k', split 'test'.*or set the dataset's 'path'[^\n]*$"):
        gsm8k.prompts(dataset(None))


def refusal(path: Path | None, **given) -> str:
    with pytest.raises(UserError) as caught:
        gsm8k.prompts(dataset(path, **given))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_missing_file_is_named(school):
    """The folder, the file names that were looked for, the remedy."""
    assert "should hold dev.jsonl or dev.parquet, got neither" in refusal(school, split="dev")


def test_a_missing_column_is_named(school):
    """The message names the present columns and the row."""
    (school / "test.jsonl").write_text(
        '{"question": "?", "answer": "#### 1"}\n{"question": "?", "target": "1"}\n'
    )

    assert "column 'answer', got none in row 1, which has question, target;" in refusal(school)


def test_an_empty_split_is_refused(school):
    """A file of blank lines holds no row."""
    (school / "test.jsonl").write_text("\n\n")

    assert "should hold rows, got none" in refusal(school)


@pytest.mark.parametrize("line", ["{", "[1]", "\udcff"])
def test_a_broken_line_is_named(school, line):
    """Cut off, of another kind, or no text at all."""
    with (school / "test.jsonl").open("ab") as file:
        file.write(line.encode(errors="surrogateescape"))

    assert "test.jsonl, line 2, should be a JSON object" in refusal(school)


def test_a_broken_parquet_file_is_refused(school):
    """A file cut short is not a shorter dataset."""
    (school / "test.parquet").write_bytes(b"PAR1")

    assert "should be a whole Parquet file" in refusal(school / "test.parquet")


def test_shots_need_a_train_split_of_their_own(school):
    """No shots with a single file, none out of the split that is asked about, none beyond its end."""
    assert "should be a folder that also holds train.jsonl" in refusal(school / "test.jsonl", shots=1)
    assert "cannot show 1 solved problems of the split it asks about" in refusal(
        school, split="train", shots=1
    )
    assert "holds 2 rows, 3 shots asked" in refusal(school, shots=3)


@pytest.mark.skipif("FSGEN_DATA" not in os.environ, reason="FSGEN_DATA names no folder with gsm8k/test.jsonl")
def test_every_gold_answer_of_gsm8k_is_right():
    """All 1,319, some with a comma or a sign; by mark and by last number alike; one more is wrong."""
    answers = [p.gold for p in gsm8k.prompts(dataset(Path(os.environ["FSGEN_DATA"]) / "gsm8k"))]
    golds = [gold["answer"].rpartition("#### ")[2] for gold in answers]

    graded = [gsm8k.grade(gold["answer"], gold) for gold in answers]
    raised = [
        gsm8k.grade(f"#### {int(message.replace(',', '')) + 1:,}", gold)
        for message, gold in zip(golds, answers, strict=True)
    ]

    assert len(answers) == 1319
    assert sum("," in gold for gold in golds) == 14
    assert sum(gold.startswith("-") for gold in golds) == 2
    assert {("right", "right", "right")} == {(v.verdict, v.strict, v.flexible) for v in graded}
    assert [gold.replace(",", "") for gold in golds] == [v.extracted for v in graded]
    assert {("wrong", "wrong", "wrong")} == {(v.verdict, v.strict, v.flexible) for v in raised}


@pytest.mark.skipif(
    "FSGEN_DATA" not in os.environ, reason="FSGEN_DATA names no folder with gsm8k/train.jsonl"
)
def test_exemplars_of_gsm8k_hold_no_annotation(tmp_path):
    """The whole train split loses every << and >>, and keeps its answers; one question suffices."""
    folder = Path(os.environ["FSGEN_DATA"]) / "gsm8k"
    (tmp_path / "train.jsonl").symlink_to(folder / "train.jsonl")
    (tmp_path / "test.jsonl").write_text((folder / "test.jsonl").read_text().splitlines()[0])
    turns = gsm8k.prompts(dataset(tmp_path, shots=7473))[0].messages
    answers = [turn["content"] for turn in turns if turn["role"] == "assistant"]

    assert len(answers) == 7473
    assert not any("<<" in answer or ">>" in answer for answer in answers)
    assert all(gsm8k.grade(answer, {"answer": answer}).strict == "right" for answer in answers)
