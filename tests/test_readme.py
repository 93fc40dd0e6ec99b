"""README and docs say what is there: commands that run, numbers that were found, views, stages, columns."""

import json
import os
import re
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import yaml

from fsgen.cli.__main__ import app
from fsgen.report import summary
from fsgen.tables import views
from fsgen.tables.schemas import comparison, scaling, uncertainty
from tests.conftest import check_part

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
TABLES = ROOT / "docs" / "tables.md"


def dictionary() -> str:
    """Every view with its columns: docs/tables.md."""
    parts = ["# The tables", "Views of `fsgen sql`, printed from their schemas."]
    for name, view in views.VIEWS.items():
        alike = [other for other in views_before(name) if views.VIEWS[other].schema is view.schema]
        path_columns = ", ".join(f"`{column}`" for column in view.path_columns)
        parts.append(f"**`{name}`**: {view.about}{'; also ' * bool(path_columns)}{path_columns}.")
        if alike:
            parts.append(f"The columns of `{alike[0]}`.")
        else:
            rows = [f"| `{f.name}` | {f.type} | {f.metadata[b'about'].decode()} |" for f in view.schema]
            parts.append("\n".join(["| column | type | meaning |", "|---|---|---|", *rows]))
    for name, view in views.JOINED.items():
        parts.append(f"**`{name}`**: {view.about} (over {', '.join(f'`{over}`' for over in view.over)}).")
        rows = [f"| `{column}` | {about} |" for column, about in view.columns.items()]
        parts.append("\n".join(["| column | meaning |", "|---|---|", *rows]))
    return "\n\n".join(parts)


def views_before(name: str) -> list[str]:
    names = list(views.VIEWS)
    return names[: names.index(name)]


def test_the_data_dictionary_is_printed_from_the_schemas():
    """A column that changes its meaning changes docs/tables.md (FSGEN_WRITE_DOCS=1 writes it anew)."""
    if os.environ.get("FSGEN_WRITE_DOCS"):
        TABLES.write_text(dictionary() + "\n")
    assert TABLES.read_text() == dictionary() + "\n"


GROUPS = {
    "Tokens and texts": ("prompts", "vocabulary", "pairs"),
    "Joined": tuple(views.JOINED),
    "Laws": tuple(scaling.TABLES),
    "Uncertainty": tuple(uncertainty.TABLES),
    "Comparisons": tuple(comparison.TABLES),
}


def list_of_views() -> str:
    """Every view with its sentence, by what it is about; what no group names is about tokens and texts."""
    known = views.VIEWS | views.JOINED
    grouped = {name for group, names in GROUPS.items() if group != "Tokens and texts" for name in names}
    groups = GROUPS | {"Tokens and texts": [name for name in views.VIEWS if name not in grouped]}
    lines = []
    for group, names in groups.items():
        reported = "; ".join(f"`{name}`, {known[name].about}" for name in names)
        lines.append(textwrap.fill(f"* **{group}**: {reported}.", 128, subsequent_indent="  "))
    return "\n".join(lines) + "\n"


def test_the_list_of_views_is_fresh():
    """As the lake has them."""
    check_part("views", [list_of_views()])


def test_the_summary_is_what_was_committed():
    """metrics/arith.json as it lies here or, where another machine has made it anew, as git knows it."""
    known = subprocess.run(
        ["git", "show", "HEAD:metrics/arith.json"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    metrics = [(ROOT / "metrics/arith.json").read_text(), known.stdout or "{}"]
    contents = [summary.markdown("arith", json.loads(one)) + "\n" for one in metrics if one != "{}"]
    check_part("summary", contents)


def test_it_is_short_enough_to_be_read():
    """A newcomer reads it to its end."""
    assert 150 <= len(README.splitlines()) <= 230


def test_every_stage_is_named():
    """The graph holds all stages of dvc.yaml."""
    graph = README.split("```mermaid")[1].split("```")[0]
    for stage in yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]:
        assert re.search(rf"\b{stage}\b", graph), stage


def test_every_room_stands_in_the_tree():
    """Someone who opens the tree finds it explained, files and packages."""
    tree = README.split("\nfsgen/\n")[1].split("```")[0]
    for path in (ROOT / "fsgen").iterdir():
        if path.stem not in ("__init__", "__pycache__"):
            assert re.search(rf"\b{path.stem}\b", tree), path.stem


def test_links_lead_somewhere():
    """Files of the project that a page links to are there."""
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text()):
            assert target.startswith("https://") or (page.parent / target).exists(), f"{page.name}: {target}"


def commands() -> list[str]:
    """Every line of every shell block, quoted line breaks kept, remarks cut off."""
    blocks = [
        block for page in PAGES for block in re.findall(r"```bash\n(.*?)```", page.read_text(), flags=re.S)
    ]
    result = [part for block in blocks for part in re.split(r"\n(?=\S)", block.strip())]
    return [re.sub(r"\s+# .*", "", command) for command in result]


OURS = [command for command in commands() if command.startswith("fsgen")]


def test_all_other_commands_are_run_by_ci():
    """From a clean checkout, to the word."""
    script = (ROOT / ".ci" / "run").read_text()
    others = [command for command in commands() if command not in OURS]
    assert others[0].startswith("git clone")  # which the checkout is
    assert others[1:] == ["make repro", "make test"]
    assert all(command in script for command in others[1:])


@pytest.mark.parametrize("command", OURS)
def test_a_shown_command_works(command):
    """In a shell, on the default run, where it has been made."""
    if not (ROOT / "data" / "rollout_logits").is_dir():
        pytest.skip("the default run is not there: make repro")
    if "duckdb" in command and not (Path(sys.executable).parent / "duckdb").exists():
        pytest.skip("no duckdb shell here: pip install duckdb-cli")
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-c", command], cwd=ROOT, env=os.environ | {"PATH": path}, capture_output=True, text=True
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()


def test_help_pages_and_readme_know_the_same_commands():
    """What the README shows exists; generate, show, run and sql are shown."""
    shown = {command.split()[1] for command in OURS}
    known = {command.name or command.callback.__name__ for command in app.registered_commands}
    assert {"sql", "show", "generate", "run", "tables", "predict", "speedup"} <= shown <= known
