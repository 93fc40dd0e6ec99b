"""The lake: joined views say what the tables say, the shipped questions have answers, nothing is written."""

import contextlib
import tempfile
from pathlib import Path

import duckdb
import polars as pl
import pytest

from fsgen.errors import UserError
from fsgen.tables import files, lake, parquet, renamed, views

QUERIES = Path(__file__).parents[2] / "queries"
NAMES = sorted(path.stem for path in QUERIES.glob("*.sql"))
OF_FIGURES = sorted(f"figures/{path.stem}" for path in QUERIES.glob("figures/*.sql"))
MAY_BE_EMPTY = {"proxy_beyond_oracle", "routers_disagree"}  # on a dozen prompts


def ask(name: str, **values: str) -> pl.DataFrame:
    return lake.query((QUERIES / f"{name}.sql").read_text(), values=values)


def test_there_are_ten_questions_and_more():
    """Each file begins with the question that it answers."""
    heads = lake.questions(QUERIES)
    assert len(heads) == len(NAMES) >= 10
    assert all(head.endswith("?") for head in heads.values())


@pytest.mark.parametrize("name", NAMES)
def test_a_question_has_an_answer(finished, name):
    """On any finished run, named columns, no column without a single value."""
    answer = ask(name)
    assert len(answer) or name in MAY_BE_EMPTY
    for column in answer.columns:
        assert answer[column].null_count() < max(1, len(answer)), column


def twinned(name: str, columns: list[str]) -> str:
    """A view's rows under two datasets and, with another entropy, under two pairs.

    Twins tie in whatever a query counts.
    """
    rows = f"from {name}"
    if "dataset" in columns:
        rows += f" union all select * replace (dataset || '-twin' as dataset) from ({rows})"
    if "pair" in columns:
        entropy = ", entropy + 1 as entropy" if "entropy" in columns else ""
        rows = f"from ({rows}) union all select * replace (pair || '-twin' as pair{entropy}) from ({rows})"
    return rows


def shuffled(seed: int) -> duckdb.DuckDBPyConnection:
    """The views of the finished run over its twinned tables, in an order of rows that the seed decides."""
    connection = duckdb.connect()
    connection.execute(lake.definitions())
    there = connection.sql("show tables").pl()["name"].to_list()
    for name in there:
        if name in views.VIEWS:
            rows = twinned(name, connection.sql(f"describe {name}").pl()["column_name"].to_list())
            connection.execute(f"create table own_{name} as from ({rows}) own order by hash(own, {seed})")
            connection.execute(f"create or replace view {name} as from own_{name}")
    return connection


@pytest.fixture(scope="module")
def orders(finished_home) -> list[duckdb.DuckDBPyConnection]:
    """Three orders of the same rows."""
    with contextlib.chdir(finished_home):
        return [shuffled(seed) for seed in range(3)]


@pytest.mark.parametrize("name", NAMES + OF_FIGURES)
def test_an_answer_does_not_hang_on_the_order_of_rows(orders, monkeypatch, name):
    """The same rows in the same order, however the tables lie and threads are timed."""
    answers = []
    for connection in orders:
        monkeypatch.setattr(lake, "connect", lambda data, subset=connection: subset)
        answers.append(ask(name))
    assert len(answers[0]) or name in MAY_BE_EMPTY
    assert all(answer.equals(answers[0]) for answer in answers)


def test_cof_by_pair_is_the_metrics_cof(finished):
    """The same number that metrics/<dataset>.json holds, whether from a dump or a rollout."""
    cof = files.read_metrics(Path("metrics/toy.json"))["pairs"]["duo"]["cof"]
    answer = dict(ask("cof_by_pair").select("method", "cof_percent").iter_rows())
    assert answer == {m: pytest.approx(100 * cof[m]["value"], abs=0.0501) for m in answer}
    assert set(answer) == set(cof) - {"speculative"}


def test_sides_are_both_models_records(finished):
    """Counted anew from the dumps, with polars, on both texts."""
    sides = lake.query("from token_pairs").sort("writer", "prompt_id", "pos")
    fused = parquet.read("data/fused/duo/toy/fused-*.parquet").filter(method="oracle")
    reads = parquet.read("data/teacher_forced/small/duo/toy/reads-*.parquet").filter(reader="small")
    key = ["writer", "prompt_id", "turn", "pos"]
    joined = sides.join(fused.select(*key, "default_id", "fused_id", "mismatch"), on=key, validate="1:1")
    assert len(joined) == len(sides) == len(fused)
    assert joined["small_id"].equals(joined["default_id"], null_equal=True)
    assert joined["large_id"].equals(joined["fused_id"])
    assert joined["mismatch"].equals(joined["mismatch_right"])
    seen = sides.join(reads.select(*key, "entropy", "max_logit", "logsumexp"), on=key, validate="1:1")
    assert seen["small_entropy"].equals(seen["entropy"])
    chance = (seen["max_logit"] - seen["logsumexp"]).exp()
    assert (chance - seen["small_probability"]).abs().max() < 1e-6
    pieces = dict(parquet.read("data/vocabulary/large.parquet", ["token_id", "piece"]).iter_rows())
    assert sides["piece"].to_list() == [pieces[i] for i in sides["token_id"]]


def test_spelt_is_rolled_with_words_and_verdicts(finished):
    """Row by row, none lost and none doubled."""
    pieces = lake.query("from rollout_pieces").sort("policy", "prompt_id", "pos")
    rollout_rows = parquet.read("data/rollouts/duo/toy/tokens-*.parquet").sort("policy", "prompt_id", "pos")
    words = dict(parquet.read("data/vocabulary/large.parquet", ["token_id", "piece"]).iter_rows())
    assert pieces["piece"].to_list() == [words[i] for i in rollout_rows["token_id"]]
    assert pieces["fused_piece"].to_list() == [words[i] for i in rollout_rows["fused_id"]]
    graded = parquet.read("data/graded/pairs/duo/toy.parquet")
    verdicts = {(p, i): v for p, i, v in graded.select("policy", "prompt_id", "verdict").iter_rows()}
    assert pieces["verdict"].to_list() == [
        verdicts[p, i] for p, i in pieces.select("policy", "prompt_id").rows()
    ]


def test_first_mismatches_are_the_first(finished):
    """Of a prompt that is named, in order, at most ten."""
    sides = lake.query("from token_pairs where writer = 'large' and in_answer and mismatch").sort(
        "prompt_id", "pos"
    )
    name = sides["prompt_id"][0]
    answer = ask("first_mismatches", pair="duo", prompt_id=name)
    assert answer["pos"].to_list() == sides.filter(prompt_id=name)["pos"].head(10).to_list()


def test_deciles_hold_all_mismatches(finished):
    """Ten parts of nearly equal size, whose shares add up."""
    answer = ask("entropy_deciles")
    assert answer["decile"].to_list() == list(range(1, 11))
    assert answer["tokens"].max() - answer["tokens"].min() <= 1
    assert answer["share_of_mismatches_percent"].sum() == pytest.approx(100, abs=0.5)
    assert answer["from_nats"].is_sorted()


def test_a_choice_is_heeded(finished):
    """--set changes what a question is about."""
    one, other = (ask("calls_by_position", policy=p) for p in ("oracle+always", "oracle+never"))
    assert set(one["called_percent"]) == {100.0}
    assert set(other["called_percent"]) == {0.0}


def test_definitions_work_in_another_shell(finished, tmp_path, monkeypatch):
    """What `fsgen sql --init` prints makes the same views in a bare DuckDB, in any folder."""
    reported = lake.definitions(Path("data").resolve())
    expected = lake.query("select count(*) as n from token_pairs")
    monkeypatch.chdir(tmp_path)
    bare = duckdb.connect()
    bare.execute(reported)
    assert bare.sql("select count(*) as n from token_pairs").pl().equals(expected)


@pytest.mark.parametrize(
    "query",
    [
        "copy (select 1) to 'stolen.csv'",
        "explain analyze copy (select 1) to 'stolen.csv'",
        "create table t as select 1",
        "attach 'other.db'",
        "drop view prompts",
        "select 1; copy (select 1) to 'stolen.csv'",
        "",
    ],
)
def test_nothing_is_written(finished, query):
    """Only a single query is run; the refusal is one sentence."""
    with pytest.raises(UserError, match="only read") as refusal:
        lake.query(query)
    assert "\n" not in str(refusal.value)
    assert not Path("stolen.csv").exists()


def test_a_misspelt_view_is_told_with_the_known_ones(finished):
    """DuckDB's first line, and what there is."""
    with pytest.raises(UserError, match=r"tokns.*known views: prompts.*, token_pairs, rollout_pieces\)"):
        lake.query("select * from tokns")


@pytest.mark.parametrize("view", ["generated_tokens", "token_pairs", "TOKEN_PAIRS"])
@pytest.mark.parametrize("folder", ["data", "nowhere"])
def test_a_view_without_tables_is_told_from_one_that_nobody_knows(tmp_path, monkeypatch, view, folder):
    """As in a clone: the folder is named and the remedy; what is known is what has tables."""
    monkeypatch.chdir(tmp_path)
    Path(folder).mkdir()
    message = f"^There are no tables for '{view.lower()}' under {folder}/ yet; run 'dvc repro'"
    with pytest.raises(UserError, match=message):
        lake.query(f"select * from {view} limit 1", Path(folder))
    with pytest.raises(UserError, match=message):
        lake.columns(view.lower(), Path(folder))
    with pytest.raises(UserError, match=r"tokns.*\(known views: none yet\)"):
        lake.query("select * from tokns", Path(folder))


def test_a_lake_on_object_storage_answers_alike(finished, s3):
    """The tables uploaded as they are; every question that has a row answers the same there."""
    import s3fs

    s3fs.S3FileSystem().put("data/", f"{s3}/lake/", recursive=True)

    for name in NAMES:
        sql = (QUERIES / f"{name}.sql").read_text()
        assert lake.query(sql, f"{s3}/lake").equals(lake.query(sql)), name


@pytest.mark.parametrize("url", ["s3://no-such-bucket-of-ours/data", "nowhere://data"])
def test_a_lake_that_cannot_be_reached_is_one_sentence(s3, url):
    """No view would be there, and the query's error would name the wrong thing."""
    with pytest.raises(
        UserError, match=f"The tables should be in a folder that fsspec can reach, got '{url}'"
    ):
        lake.query("from generated_tokens", url)


def test_a_query_of_more_than_its_memory_works_on_disk(tmp_path, monkeypatch):
    """The answer is right, and what lay on disk is gone with the connection."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(lake, "MEMORY", "30MB")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "aside"))
    (tmp_path / "aside").mkdir()
    grouped = "select i % 2000000 as place, count(*) as times from range(4000000) t(i) group by all"

    connection = lake.connect()
    requested = f"select count(*), sum(times) from (from ({grouped}) order by place)"
    counted = connection.execute(requested).fetchone()
    spilt = [*(tmp_path / "aside").iterdir()]
    connection.close()

    assert counted == (2_000_000, 4_000_000)
    assert spilt
    assert not [*(tmp_path / "aside").iterdir()]


OLD_VIEWS = [("solo", "'generated_tokens'"), ("LARGE_READS", "'teacher_forced'")]


@pytest.mark.parametrize(("old", "new"), OLD_VIEWS)
def test_an_old_view_is_refused_with_the_new_name(old, new):
    with pytest.raises(UserError, match=rf"The view '{old.lower()}' is called {new} since 0\.2\.0"):
        lake.query(f"select * from {old}")


def test_an_old_column_is_refused_with_the_new_name(tiny_world):
    from fsgen.analysis import catalogue

    catalogue.write_catalogue(tiny_world)
    sentence = r"The column 'parameters' is called 'non_embedding_parameters' since 0\.2\.0"
    for query in (
        "select parameters from pairs",
        "select p.parameters from pairs p",
        "select Parameters from PAIRS",
        "select * exclude (parameters) from pairs",
        "select * replace (1 as parameters) from pairs",
        "select 1 from pairs join models using (parameters)",
        "unpivot pairs on parameters",
    ):
        with pytest.raises(UserError, match=sentence):
            lake.query(query)


def test_an_old_column_is_explained_only_where_its_new_name_is(tiny_world):
    """`model` is `regressors` in one view; elsewhere the error is DuckDB's."""
    from fsgen.analysis import catalogue

    catalogue.write_catalogue(tiny_world)
    with pytest.raises(UserError, match=r'^The query failed: .*"model" not found'):
        lake.query("select model from policies")


def test_renamed_names_lead_to_names_that_exist():
    """And no view is called by an old name; some old column names live on with another meaning."""
    known = views.VIEWS | views.JOINED
    columns = {name for view in views.VIEWS.values() for name in (*view.schema.names, *view.path_columns)}
    columns |= {name for view in views.JOINED.values() for name in view.columns}

    assert not renamed.VIEWS.keys() & known.keys()
    assert {new for names in renamed.VIEWS.values() for new in names} <= known.keys()
    assert {new for names in renamed.COLUMNS.values() for new in names} <= columns
