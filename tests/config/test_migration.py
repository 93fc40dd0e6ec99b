"""`fsgen migrate` and the refusal of names of 0.1; CHANGELOG.md lists every one of them."""

from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from fsgen.cli import app
from fsgen.cli import migrate as command
from fsgen.config import renamed
from fsgen.config.load import load_settings
from fsgen.config.migration import migrate
from fsgen.errors import UserError
from fsgen.tables import renamed as tables_renamed
from tests.conftest import PARAMS, ROOT

OLD = """\
# What is run.
seed: 7
datasets:
  toy: {task: arith, max_new_tokens: 20, calibration: 0.25}   # a share
models:
  a: {"prompt": plain, family: base-23k}
  b:
    prompt: plain # not a chat
    path: x
pairs: {}
methods: {oracle: {}}
routers:
  threshold: {at: 0.5}
  mine: {rule: threshold, at: 0.4}
policies: [oracle+threshold, "oracle+threshold@20", oracle+mine]
dump: {depth: 2.5, k_min: 4, k_max: 20, block: 6, tail: 3}
compute: {device: cpu, dtype: float32, rows: 4, read_tokens: 120, engine: local}
report: {prompts: 3}
family: {}
tuned: {}
"""
NEW = """\
# What is run.
seed: 7
datasets:
  toy: {task: arith, max_new_tokens: 20, calibration_share: 0.25}   # a share
models:
  a: {"prompt_format": plain, embedded: base-23k}
  b:
    prompt_format: plain # not a chat
    path: x
pairs: {}
methods: {oracle: {}}
routers:
  max_probability: {threshold: 0.5}
  mine: {rule: max_probability, threshold: 0.4}
policies: [oracle+max_probability, "oracle+max_probability@20", oracle+mine]
dump: {nats_below_top: 2.5, min_top_k: 4, max_top_k: 20, prompts_per_shard: 6, tokens_after_stop: 3}
compute: {device: cpu, dtype: float32, batch_size: 4, max_batch_tokens: 120, executor: local}
report: {explorer_prompts: 3}
embedded_models: {}
embedded_finetunes: {}
"""


def test_every_other_byte_of_a_file_stays():
    text, renames = migrate(OLD, "params.yaml")

    assert text == NEW
    assert len(renames) == 21
    assert str(renames[0]) == "line 4: calibration -> calibration_share"


def test_a_migrated_file_stays_as_it_is():
    assert migrate(NEW, "params.yaml") == (NEW, [])


@given(st.text(alphabet="# \n", max_size=8), st.sampled_from(["\n", "\r\n"]))
def test_comments_and_line_ends_around_a_key_stay(blank, end):
    before = f"compute:{end}  rows: 4 #{blank.replace(chr(10), '')}{end}seed: 1{end}"

    assert migrate(before, "p")[0] == before.replace("rows", "batch_size", 1)


def test_an_entry_with_an_alias_is_renamed_once():
    before = "models:\n  a: &a {prompt: plain}\n  b: *a\n  c: {<<: *a, path: x}\n"

    text, renames = migrate(before, "p")

    assert text == before.replace("prompt", "prompt_format", 1)
    assert [str(rename) for rename in renames] == ["line 2: prompt -> prompt_format"]


@pytest.mark.parametrize("entry", ["", "{}", "{at: 0.5}", "{rule: threshold, at: 0.5}"])
def test_a_router_and_its_policies_follow_the_rule(entry):
    text, _ = migrate(f"routers:\n  threshold: {entry}\npolicies: [oracle+threshold@5]\n", "p")

    assert text.startswith("routers:\n  max_probability:")
    assert "[oracle+max_probability@5]" in text


def test_a_router_with_another_rule_keeps_its_name():
    before = "routers: {threshold: {rule: margin}, max_probability: {}}\npolicies: [oracle+threshold@5]\n"

    assert migrate(before, "p") == (before, [])


def test_the_command_keeps_line_ends_and_is_idempotent(tmp_path, capsys):
    file = tmp_path / "params.yaml"
    file.write_bytes(b"seed: 1 # one\r\ncompute:\r\n  rows: 4\r\n")

    command.migrate(file)
    assert file.read_bytes() == b"seed: 1 # one\r\ncompute:\r\n  batch_size: 4\r\n"
    assert "line 3: rows -> batch_size" in capsys.readouterr().out
    command.migrate(file)
    assert file.read_bytes() == b"seed: 1 # one\r\ncompute:\r\n  batch_size: 4\r\n"
    assert [path.name for path in tmp_path.iterdir()] == ["params.yaml"]


def test_a_file_that_is_no_text_is_refused_and_stays(tmp_path):
    file = tmp_path / "params.yaml"
    file.write_bytes(b"\xff\xfe\x00")

    with pytest.raises(UserError, match="is not a text file in UTF-8"):
        command.migrate(file)
    assert file.read_bytes() == b"\xff\xfe\x00"


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("compute: {rows: 4, batch_size: 3}", "compute of p holds both 'rows' and 'batch_size'"),
        ("a: [", "p is not valid YAML"),
        ("- a", "p should hold a mapping of settings, got CommentedSeq"),
    ],
)
def test_what_cannot_be_migrated_is_refused(text, sentence):
    with pytest.raises(UserError, match=sentence):
        migrate(text, "p")


def old_keys() -> list[tuple[str, str, str]]:
    """Path to an entry or section, an old key of it and its new name."""
    entries = {"datasets": "datasets/toy", "models": "models/small", "routers": "routers/margin"}
    keys = [
        (entries.get(section, section), old, new)
        for section, names in renamed.KEYS.items()
        for old, new in names.items()
    ]
    return keys + [("", old, new) for old, new in renamed.SECTIONS.items()]


@pytest.mark.parametrize(("where", "old", "new"), old_keys())
def test_an_old_key_is_refused_with_the_new_name(where, old, new, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    params = yaml.safe_load(yaml.safe_dump(PARAMS))
    entry = params
    for step in filter(None, where.split("/")):
        entry = entry[step]
    entry[old] = entry.pop(new, {})
    Path("params.yaml").write_text(yaml.safe_dump(params))

    with pytest.raises(UserError, match=rf"{old} is called '{new}' since 0\.2\.0; run 'fsgen migrate'"):
        load_settings()


def test_an_old_router_rule_is_refused_with_the_new_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("params.yaml").write_text(yaml.safe_dump(PARAMS | {"routers": {"threshold": {"threshold": 0.5}}}))

    with pytest.raises(UserError, match=r"rule threshold is called 'max_probability' since 0\.2\.0"):
        load_settings()


def test_the_changelog_lists_every_name_that_changed():
    page = (ROOT / "CHANGELOG.md").read_text()
    lines = set(page.splitlines())
    tables = tables_renamed.VIEWS | tables_renamed.COLUMNS

    assert {f"| `{old}` | {', '.join(f'`{n}`' for n in new)} |" for old, new in tables.items()} <= lines
    assert {f"| `{old}` | `{new}` |" for old, new in renamed.SECTIONS.items()} <= lines
    assert {f"| `fsgen {old}` | `fsgen {new}` |" for old, new in app.RENAMED.items()} <= lines
    for section, keys in renamed.KEYS.items():
        for old, new in keys.items():
            assert any(f"`{section}.{star}{old}` | `{new}`" in page for star in ("", "*."))
