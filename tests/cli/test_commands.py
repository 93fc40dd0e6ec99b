"""What people type: each command on a finished run, its refusals, its example as it stands."""

import io
import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from rich.console import Console

from fsgen.cli import __main__, app, prune, query, show, single_run
from fsgen.cli.run import explain_merge
from fsgen.config.load import load_settings
from fsgen.errors import UserError
from fsgen.execution import shards
from fsgen.tables import lake, parquet
from tests.conftest import PARAMS

ROOT = Path(__file__).parents[2]


@pytest.fixture
def fsgen(monkeypatch, capsys):
    """Call the command line in this process: exit code, what it printed, what it said on stderr."""

    def call(*words: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["fsgen", *words])
        screen = Console(soft_wrap=True, highlight=False, width=120)
        for module in (query, show):
            monkeypatch.setattr(module, "screen", screen)
        code = 0
        try:
            __main__.main()
        except SystemExit as left:
            code = left.code
        out, err = capsys.readouterr()
        return code, out, err

    return call


def refused(answer: tuple[int, str, str]) -> str:
    """The one sentence of a refusal."""
    code, out, err = answer
    assert code == 1
    assert out == ""
    (sentence,) = err.splitlines()
    assert sentence.startswith("fsgen: ")
    return sentence


def test_the_help_page_lists_the_commands_in_order_and_imports_nothing_heavy():
    """In a process of its own: no torch, no transformers, no statistics."""
    code = """
import sys
from fsgen.cli.__main__ import main
sys.argv = ["fsgen", "--help"]
try:
    main()
finally:
    heavy = {"torch", "transformers", "scipy", "sklearn"} & sys.modules.keys()
    assert not heavy, heavy
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    names = (
        "sql tables show predict summary check generate run speedup batch-invariance grade report archive "
    )
    names += "prune migrate"
    assert re.findall(r"^│ ([a-z][a-z-]+) ", done.stdout, flags=re.M) == names.split()


def test_every_command_has_a_page_with_an_example(fsgen):
    """The example begins with the command it is about, and markup swallows no placeholder."""
    for command in app.app.registered_commands:
        name = command.name or command.callback.__name__.replace("_", "-")
        code, out, _ = fsgen(name, "--help")
        assert code == 0
        assert f"fsgen {name}" in re.search(r"Example:\s+(.*)", out).group(1)
        assert all(word in out for word in re.findall(r"<\w+>", command.callback.__doc__))


def test_sql_in_three_formats(finished, fsgen):
    """The same rows; lists survive."""
    query = (
        "select prompt_id, top_ids[:2] as two from generated_tokens where model = 'small' "
        "order by prompt_id, pos limit 2"
    )
    code, table, _ = fsgen("sql", query)
    assert code == 0
    rows = json.loads(fsgen("sql", query, "--format", "json")[1])
    lines = fsgen("sql", query, "--format", "csv")[1].splitlines()
    assert lines[0] == "prompt_id,two"
    assert len(lines) == 3
    assert len(rows) == 2
    for row in rows:
        assert row["prompt_id"] in table
        assert f'"{row["two"]}"' in lines[1 + rows.index(row)]


def test_a_question_from_a_file_with_a_choice(finished, fsgen):
    """The file's SQL, with what --set says."""
    file = str(ROOT / "queries" / "calls_by_position.sql")
    rows = json.loads(fsgen("sql", file, "--set", "policy=oracle+always", "--format", "json")[1])
    assert {row["called_percent"] for row in rows} == {100.0}
    assert "write --set pair=" in refused(fsgen("sql", file, "--set", "policy"))


def test_sql_asks_the_tables_where_they_are(finished, fsgen, s3):
    """The same answer from a folder of another name and from object storage."""
    import s3fs

    query = "select model, count(*) as n from generated_tokens group by model order by model"
    s3fs.S3FileSystem().put("data/dumps/", f"{s3}/elsewhere/dumps/", recursive=True)
    Path("elsewhere").symlink_to("data")

    here = fsgen("sql", query)

    assert fsgen("sql", query, "--data", "elsewhere") == here
    assert fsgen("sql", query, "--data", f"{s3}/elsewhere") == here
    assert "in a folder that fsspec can reach" in refused(fsgen("sql", query, "--data", "s3://missing/data"))


def test_sql_without_a_query_lists_the_questions(fsgen, monkeypatch):
    """One for each file, as a sentence."""
    monkeypatch.chdir(ROOT)
    _, out, _ = fsgen("sql")
    for path in Path("queries").glob("*.sql"):
        assert str(path) in out
    assert out.count("?") >= 10


def test_init_prints_what_another_shell_can_read(finished, fsgen):
    """Absolute paths, one statement a line: the views, then their comments."""
    _, out, _ = fsgen("sql", "--init")
    statements = [line.partition(" view ")[0].partition(" column ")[0] for line in out.splitlines()]
    views = statements.count("create or replace")
    assert out.count("create or replace view") == views > 30
    assert statements.count("comment on") == len(statements) - views > views
    assert str(Path("data").resolve()) in out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["sql", "drop view prompts"], "only read"),
        (["sql", "select 1", "--format", "xml"], "the formats"),
        (
            ["sql", "queries/nope.sql"],
            "There is no file at queries/nope.sql; name one that",
        ),
        (["tables", "token_pairs_"], "did you mean 'token_pairs'"),
        (["show", "duo", "nobody"], "There is no prompt 'nobody'"),
        (["show", "solo", "{prompt}"], "The pair 'solo' has no text"),
        (["show", "duo", "{prompt}", "--policy", "speculative@3"], "wrote nothing"),
        (["show", "duo", "{prompt}", "--policy", "oracle+always", "--pos", "999"], "no token 999"),
        (["show", "duo", "{prompt}", "--pos", "1"], "name it with --policy"),
        (
            ["show", "duo", "{prompt}", "--policy", "oracle+always", "--pos", "-1"],
            "value for '--pos'",
        ),
        (["generate", "--policy", "oracle+entropi@20", "words"], "did you mean 'entropy'"),
        (["generate", "--policy", "oracle+always", "--prompt-id", "nobody"], "There is no prompt 'nobody'"),
        (["run", "--large", "a/b"], "Missing option"),
        (["tabels"], "Did you mean 'tables'"),
        (["check", "--on", "h10"], "did you mean 'h100'"),
        (
            ["run", "--large", "a/b", "--small", "no such", "--dataset", "toy"],
            "neither a folder nor a hub id",
        ),
        (
            ["run", "--large", "checkpoints/large", "--small", "checkpoints/small", "--dataset", "tyo"],
            "'toy'",
        ),
        (
            ["run", "--large", "checkpoints/large", "--small", "checkpoints/small", "--dataset", "mbpp"],
            "give 'fsgen run' the flag --allow-code-execution",
        ),
        (
            ["run", "--large", "a/b", "--small", "a/c", "--dataset", "toy", "--limit", "0"],
            "Invalid value for '--limit'",
        ),
        (
            ["run", "--large", "a/b", "--small", "a/c", "--dataset", "toy", "--max-new-tokens", "0"],
            "Invalid value for '--max-new-tokens'",
        ),
        (["predict", "--dataset", "toy", "--large", "1e9", "--small", "2e9"], "0 < small < large"),
        (["grade", "arit", "x"], "did you mean 'arith'"),
        (["grade", "arith", "nofile"], "no file at nofile"),
        (["batch-invariance", "smal"], "did you mean 'small'"),
        (["speedup", "dou"], "did you mean 'duo'"),
        *(
            (["batch-invariance", "small", "--prompts", n], "value for '--prompts'")
            for n in ("0", "-1", "-2")
        ),
        *((["speedup", "duo", "--prompts", n], "value for '--prompts'") for n in ("0", "-2")),
    ],
)
def test_a_refusal_is_one_sentence(finished, fsgen, words, message):
    """Exit code 1, nothing on stdout, what was expected and what to do."""
    prompt = parquet.read("data/prompts/toy.parquet").filter(split="test").sort("order")["prompt_id"][0]
    assert message in refused(fsgen(*(word.format(prompt=prompt) for word in words)))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["sql", "select * from token_pairs limit 1"],
            "There are no tables for 'token_pairs' under data/ yet",
        ),
        (
            ["sql", "from generated_tokens", "--data", "nowhere"],
            "There are no tables for 'generated_tokens' under nowhere/ yet",
        ),
        (["tables", "generated_tokens"], "There are no tables for 'generated_tokens' under data/ yet"),
        (["show", "duo", "toy-001"], "There are no tables for 'prompts' under data/ yet"),
        (["batch-invariance", "small"], "There is no table at data/prompts/toy.parquet"),
        (["summary"], "There is no metrics/toy.json"),
    ],
)
def test_before_the_first_run_a_refusal_names_the_command(tiny_world, fsgen, words, message):
    """What is missing, and that `dvc repro` makes it."""
    shutil.rmtree("data/prompts")
    sentence = refused(fsgen(*words))
    assert message in sentence
    assert "run 'dvc repro'" in sentence


def test_without_any_pair_a_plan_is_told_and_a_text_of_two_is_not(tiny_world, fsgen):
    """Models may be run alone, and `generate` says what it needs."""
    Path("params.yaml").write_text(yaml.safe_dump(PARAMS | {"pairs": {}}))
    assert "3 models, 0 pairs" in fsgen("check")[1]
    assert "at least one entry under 'pairs', got none; add one such as 'duo:" in refused(
        fsgen("generate", "w1")
    )


def test_a_fault_of_ours_is_one_sentence_too(finished, fsgen, monkeypatch):
    """And --debug shows where it was."""

    def fall(*_):
        raise ZeroDivisionError("so it goes")

    monkeypatch.setattr(lake, "columns", fall)
    assert "ZeroDivisionError: so it goes" in refused(fsgen("tables", "generated_tokens"))
    code, _, err = fsgen("--debug", "tables", "generated_tokens")
    assert code == 1
    assert "in fall" in err


def test_tables_describe_views(finished, fsgen):
    """All of them, and the columns of plain and of joined ones."""
    _, out, _ = fsgen("tables")
    assert {"prompts", "token_pairs", "rollout_pieces", "speedups"} <= {
        line.split()[0] for line in out.splitlines()
    }
    for view in ("fused_tokens", "token_pairs"):
        _, out, _ = fsgen("tables", view)
        assert "prompt_id" in out
        assert all(len(line.split()) > 2 for line in out.splitlines())


def test_show_goes_down_to_the_token(finished, fsgen):
    """Prompt and texts; a policy's marks; both models' words with their probabilities."""
    rollout_rows = parquet.read("data/rollouts/duo/toy/tokens-*.parquet").filter(
        policy="oracle+max_probability"
    )
    first = parquet.read("data/prompts/toy.parquet").filter(split="test").sort("order")["prompt_id"][0]
    rows = rollout_rows.filter(prompt_id=first).sort("pos")
    _, out, _ = fsgen("show", "duo", first)
    assert "small (small) alone" in out
    assert "large (large) alone" in out
    assert "oracle+max_probability" in out
    _, out, _ = fsgen("show", "duo", first, "--policy", "oracle+max_probability")
    assert f"{rows['called'].sum()} calls" in out
    assert len(re.findall(r"\[[^ \]]+\]", out.splitlines()[1])) == (rows["called"] & rows["mismatch"]).sum()
    _, out, _ = fsgen("show", "duo", first, "--policy", "oracle+max_probability", "--pos", "2")
    assert out.count("%") >= 30  # ten words of three models
    assert "nats" in out


def test_generate_writes_what_the_pipeline_wrote(finished, fsgen, monkeypatch):
    """The text of the rollout, marked, and the ratios; words on stdin are a conversation."""
    name = parquet.read("data/prompts/toy.parquet").filter(split="test").sort("order")["prompt_id"][0]
    texts = parquet.read("data/rollouts/duo/toy/texts-*.parquet").filter(
        prompt_id=name, policy="oracle+max_probability"
    )
    rows = parquet.read("data/rollouts/duo/toy/tokens-*.parquet").filter(
        prompt_id=name, policy="oracle+max_probability"
    )
    _, out, _ = fsgen("generate", "--policy", "oracle+max_probability", "--prompt-id", name)
    plain = re.sub(r"[\[\]{}]|<end>", "", out.splitlines()[0])
    assert plain.split() == texts["text"][0].split()
    assert f"called at {rows['called'].sum()} " in out
    monkeypatch.setattr(sys, "stdin", io.StringIO("w1 w2\n"))
    code, out, _ = fsgen("generate", "--policy", "oracle+always")
    assert code == 0
    assert out.count("passes of the large model") == 1


def test_report_and_summary(finished, fsgen):
    """The page appears, and the table is printed by both."""
    _, out, _ = fsgen("report")
    assert "report.html" in out
    assert Path("plots/report.html").is_file()
    assert fsgen("summary")[1] in out


def test_grade_a_file(finished, fsgen):
    """A verdict a line."""
    Path("answers.jsonl").write_text(
        '{"answer": "#### 4", "text": "#### 4"}\n{"answer": "#### 4", "text": "5"}\n'
    )
    _, out, _ = fsgen("grade", "gsm8k", "answers.jsonl")
    assert [json.loads(line)["verdict"] for line in out.splitlines()] == ["right", "wrong"]


def test_check_tells_what_it_will_cost(finished, fsgen):
    """Of the file here, and of another; hours where a machine is named, measured or stated."""
    _, out, _ = fsgen("check")
    assert "params.yaml holds: 1 datasets, 3 models" in out
    assert "rollout" in out
    for machine in ("here", "a100"):
        _, out, _ = fsgen("check", "params.yaml", "--on", machine)
        hours = re.search(r"^all .* ([\d.e-]+)$", out, flags=re.M)
        assert float(hours.group(1)) > 0
    assert "There is no params file" in refused(fsgen("check", "nofile.yaml"))


def test_keep_says_where_a_run_is_kept(finished, fsgen):
    """A second time too; a name with a folder in it is refused."""
    assert fsgen("report")[0] == 0
    for _ in range(2):
        code, out, err = fsgen("archive", "mine")
        assert code == 0, err
        assert out.startswith("results/mine: findings of toy")
    assert Path("results/mine/README.md").is_file()
    assert "plain name" in refused(fsgen("archive", "../mine"))


def test_tidy_asks_before_it_removes(tiny_world, fsgen, monkeypatch):
    """It names what params.yaml no longer does, and nothing else; a no keeps everything."""
    kept = [
        "data/teacher_forced/large/duo/toy/x",
        "data/dumps/small/toy/x",
        "data/counts/toy/x",
        "metrics/toy.json",
    ]
    kept += ["metrics/scaling.json", "data/embedded/base/x", "data/scaling/dumps/x", "data/published/x"]
    gone = [
        "data/teacher_forced/large/old/toy/x",
        "data/dumps/older/toy/x",
        "data/graded/pairs/old/x",
        "metrics/dull.json",
    ]
    gone += ["data/vocabulary/older.parquet", "data/rollout_logits/old/x", "data/prompts/dull.parquet"]
    for path in map(Path, kept + gone):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("0123456789")
    result = {str(path) for path in prune.find_leftovers(load_settings())}
    assert len(result) == len(gone)
    assert all(any(path.startswith(one) for one in result) for path in gone)

    monkeypatch.setattr(prune.typer, "confirm", lambda question: False)
    _, out, _ = fsgen("prune")
    assert all(one in out for one in result)
    assert all(Path(path).exists() for path in kept + gone)
    _, out, _ = fsgen("prune", "--yes")
    assert "Removed 7." in out
    assert all(Path(path).exists() for path in kept)
    assert not any(Path(path).exists() for path in gone)
    assert "Nothing to remove" in fsgen("prune")[1]


def test_run_is_the_pipeline_for_one_combination(
    finished_home, tiny_checkpoints, tmp_path, fsgen, monkeypatch
):
    """Two folders and a task: the same bytes as the stages give; again, nothing is run twice."""
    monkeypatch.chdir(tmp_path)
    for role in ("small", "large"):
        Path(role).symlink_to(finished_home / "checkpoints" / role)
    words = "run --large large --small small --dataset arith --limit 16 --max-new-tokens 20 "
    words += "--router max_probability"
    code, out, err = fsgen(*words.split())
    assert code == 0, err
    (home,) = Path("runs").iterdir()
    assert "oracle+max_probability" in out
    assert "|\n\n| pair | policy |" in out
    content = json.loads((home / "metrics/arith.json").read_text())
    assert set(content["pairs"]) == {"small-large"}
    assert set(content["pairs"]["small-large"]["policies"]) == {"oracle+always", "oracle+max_probability"}
    added = yaml.safe_load(out.partition("params.yaml:")[2])
    assert added["pairs"] == {"small-large": {"small": "small", "tuned": "small", "large": "large"}}
    assert added["routers"] == {"max_probability": {"threshold": 0.5}}
    moved = PARAMS | {
        key: PARAMS[key] | value for key, value in added.items() if isinstance(PARAMS[key], dict)
    }
    Path("params.yaml").write_text(
        yaml.safe_dump(
            moved
            | {
                "policies": added["policies"],
                "models": added["models"],
                "pairs": added["pairs"],
                "datasets": added["datasets"],
            }
        )
    )
    assert load_settings().pairs.keys() == {"small-large"}
    assert explain_merge(added) == "params.yaml holds this pair already."
    Path("params.yaml").unlink()

    monkeypatch.setattr(shards, "_write_shard", None)  # a model's work would be written
    code, again, err = fsgen(*words.split())
    assert code == 0, err
    assert again.splitlines()[-1] == out.splitlines()[-1]


def test_run_with_a_tuned_model_and_drafts(finished_home, tmp_path, fsgen, monkeypatch):
    """Proxy needs a third folder; drafting takes no router."""
    monkeypatch.chdir(tmp_path)
    folders = {role: str(finished_home / "checkpoints" / role) for role in ("small", "tuned", "large")}
    words = [part for role, path in folders.items() for part in (f"--{role}", path)]
    rest = ["--dataset", "arith", "--limit", "16", "--max-new-tokens", "12"]
    code, out, err = fsgen("run", *words, *rest, "--method", "proxy")
    assert code == 0, err
    assert "proxy+always" in out
    code, out, err = fsgen("run", *words, *rest, "--method", "speculative@3")
    assert code == 0, err
    assert "speculative@3" in out
    assert "takes no router" in refused(
        fsgen("run", *words, *rest, "--method", "speculative@3", "--router", "entropy@20")
    )
    assert "needs a tuned" in refused(fsgen("run", *words[:2], *words[4:], *rest, "--method", "proxy"))


def test_run_says_what_params_yaml_lacks(tmp_path, monkeypatch):
    """A dataset that is there keeps its own limit; what stands there already is not said again."""
    monkeypatch.chdir(tmp_path)
    wanted = {
        "datasets": {"arith": {"task": "arith", "max_new_tokens": 96, "limit": 16}},
        "models": {
            "a": {"path": "a", "prompt_format": "plain"},
            "b": {"path": "b", "prompt_format": "plain"},
        },
        "methods": {"oracle": {"rule": "oracle"}},
        "policies": ["oracle+always"],
        "routers": {"always": {}},
    }
    here = {
        "datasets": {"arith": {"task": "arith", "max_new_tokens": 96, "limit": 200}},
        "models": {
            "a": {"path": "a", "prompt_format": "plain"},
            "b": {"path": "elsewhere", "prompt_format": "plain"},
        },
        "methods": {"oracle": {"rule": "oracle"}},
        "policies": ["oracle+never"],
        "routers": {"always": None},
    }
    Path("params.yaml").write_text(yaml.safe_dump(here))
    head, _, lines = explain_merge(wanted).partition(":\n\n")
    assert head == "To keep the pair, merge these lines into the sections of params.yaml"
    assert yaml.safe_load(lines) == {
        "models": {"b": {"path": "b", "prompt_format": "plain"}},
        "policies": ["oracle+always"],
    }


def test_run_and_check_doubt_a_pair_the_wrong_way_round(finished, fsgen, monkeypatch, tmp_path):
    """A warning with the result: the comparison is allowed."""
    (tmp_path / "metrics").mkdir()
    content = json.loads(Path("metrics/toy.json").read_text())
    (tmp_path / "params.yaml").write_text(Path("params.yaml").read_text())
    monkeypatch.setattr(single_run, "run", lambda request: tmp_path)
    words = ("run", "--large", "a/b", "--small", "a/c", "--dataset", "toy")
    for parameters, is_doubted in ((10**9, True), (1000, False)):
        content["models"]["small"]["total_parameters"] = parameters
        (tmp_path / "metrics" / "toy.json").write_text(json.dumps(content))
        code, _, err = fsgen(*words)
        assert code == 0, err
        assert ("warning: pairs.duo names 'small' small, with 1,000,000,000 parameters" in err) == is_doubted
    swapped = PARAMS | {"pairs": {"duo": {"small": "large", "tuned": "large", "large": "small"}}}
    (tmp_path / "swapped.yaml").write_text(yaml.safe_dump(swapped))
    assert "warning" not in fsgen("check")[1]
    assert "warning: pairs.duo names 'large' small" in fsgen("check", str(tmp_path / "swapped.yaml"))[1]


def test_run_pins_a_hub_model_to_the_commit_of_today(tmp_path, monkeypatch):
    """Looked up once, or named; an unreachable hub is one sentence."""
    monkeypatch.chdir(tmp_path)
    import huggingface_hub

    monkeypatch.setattr(huggingface_hub, "model_info", lambda hub: SimpleNamespace(sha=f"commit of {hub}"))
    request = single_run.RunRequest(large="org/big-1.5B", small="org/little@abc", dataset="gsm8k")
    assert single_run.params_of(request)["models"] == {
        "little": {"hub": "org/little", "revision": "abc", "prompt_format": "plain"},
        "big-1_5B": {"hub": "org/big-1.5B", "revision": "commit of org/big-1.5B", "prompt_format": "plain"},
    }

    def refuse(hub):
        raise ConnectionError

    monkeypatch.setattr(huggingface_hub, "model_info", refuse)
    with pytest.raises(UserError, match="could not be looked up on the hub"):
        single_run.params_of(request)


def test_run_tells_two_folders_of_one_name_apart(tmp_path, monkeypatch):
    """By their roles."""
    monkeypatch.chdir(tmp_path)
    for path in ("one/model", "two/model"):
        Path(path).mkdir(parents=True)
    request = single_run.RunRequest(small="one/model", large="two/model", dataset="arith")
    assert list(single_run.params_of(request)["pairs"]) == ["model-model-large"]


def examples() -> list[str]:
    """The examples of all help pages."""
    result = [
        re.findall(r"Example: `(.*)`", command.callback.__doc__) for command in app.app.registered_commands
    ]
    return [example for subset in result for example in subset]


ELSEWHERE = (
    "fsgen grade",
    "fsgen archive",
    "fsgen report",
    "fsgen prune",
)  # tested where there is a file, or something to lose


@pytest.mark.parametrize("line", [line for line in examples() if not line.startswith(ELSEWHERE)])
def test_an_example_works_as_it_stands(line, fsgen, monkeypatch):
    """On the default run, where it has been made."""
    monkeypatch.chdir(ROOT)
    if not Path("data/rollout_logits").is_dir():
        pytest.skip("the default run is not there: make repro")
    code, out, err = fsgen(*shlex.split(line)[1:])
    assert code == 0, err
    assert out


@pytest.mark.parametrize(("old", "new"), app.RENAMED.items())
def test_an_old_command_is_refused_with_the_new_name(fsgen, old, new):
    assert refused(fsgen(old)) == f"fsgen: 'fsgen {old}' is called 'fsgen {new}' since 0.2.0."


def test_migrate_rewrites_a_file_once(fsgen, tmp_path, monkeypatch):
    """It names every change, and a second run has nothing to do."""
    monkeypatch.chdir(tmp_path)
    Path("params.yaml").write_text("compute: {rows: 4} # texts\n")
    _, first, _ = fsgen("migrate")

    assert "params.yaml, line 1: rows -> batch_size" in first
    assert Path("params.yaml").read_text() == "compute: {batch_size: 4} # texts\n"
    assert "Nothing to rename" in fsgen("migrate")[1]
    assert "There is no params file at nowhere.yaml" in refused(fsgen("migrate", "nowhere.yaml"))
