"""The README says what is there: commands, views, stages, columns with their sentences."""

import os
import re
from pathlib import Path

import yaml

from fsgen import (
    benchmarks,
    closeups,
    comparison,
    decoding,
    evaluation,
    fusing,
    grading,
    reading,
    rollout,
    scaling,
    simulation,
    tallies,
    texts,
    uncertainty,
    views,
    vocabulary,
)

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
TABLES = ROOT / "docs" / "tables.md"
SCHEMAS = {
    "prompts": benchmarks.PROMPTS,
    "solo": decoding.TOKENS,
    "solo_texts": texts.TEXTS,
    "large_reads": reading.READS,
    "small_reads": reading.READS,
    "fused": fusing.FUSED,
    "routed": simulation.ROUTED,
    "rolled": rollout.ROLLED,
    "rolled_texts": rollout.ROLLED_TEXTS,
    "steps": rollout.STEPS,
    "graded_solo": grading.GRADED,
    "graded": grading.GRADED_PAIR,
    "tallies": tallies.POLICIES,
    "scores": simulation.SCORES,
    "pairs": evaluation.PAIRS,
    "closeups": closeups.CLOSEUPS,
    "vocabulary": vocabulary.VOCABULARY,
    **scaling.SCHEMAS,
    **uncertainty.TABLES,
    **comparison.TABLES,
}


def dictionary() -> str:
    """Every view with its columns, as the files themselves say: docs/tables.md."""
    parts = ["# The tables", "Views of `fsgen sql`, printed from the schemas that the files carry."]
    for name, view in views.VIEWS.items():
        alike = [other for other in parts_before(name) if SCHEMAS[other] is SCHEMAS[name]]
        parts.append(f"**`{name}`**: {view.about}; also {', '.join(f'`{c}`' for c in view.path_columns)}.")
        if alike:
            parts.append(f"The columns of `{alike[0]}`.")
        else:
            rows = [f"| `{f.name}` | {f.type} | {f.metadata[b'about'].decode()} |" for f in SCHEMAS[name]]
            parts.append("\n".join(["| column | type | meaning |", "|---|---|---|", *rows]))
    for name, view in views.JOINED.items():
        parts.append(f"**`{name}`**: {view.about} (over {', '.join(f'`{over}`' for over in view.over)}).")
        rows = [f"| `{column}` | {about} |" for column, about in view.columns.items()]
        parts.append("\n".join(["| column | meaning |", "|---|---|", *rows]))
    return "\n\n".join(parts)


def parts_before(name: str) -> list[str]:
    names = list(views.VIEWS)
    return names[: names.index(name)]


def test_the_data_dictionary_is_printed_from_the_schemas():
    """A column that changes its meaning changes docs/tables.md (FSGEN_WRITE_DOCS=1 writes it anew)."""
    assert SCHEMAS.keys() == views.VIEWS.keys()
    if os.environ.get("FSGEN_WRITE_DOCS"):
        TABLES.write_text(dictionary() + "\n")
    assert TABLES.read_text() == dictionary() + "\n"


def test_every_stage_is_named():
    """The graph and the table hold all stages of dvc.yaml."""
    for stage in yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]:
        assert f"`{stage}`" in README or f"`{stage.split('_')[0]}_*`" in README
        assert re.search(rf"\b{stage}\b", README.split("```mermaid")[1].split("```")[0])


def test_every_room_stands_in_the_tree():
    """Someone who opens the tree finds it explained, files and packages."""
    tree = README.split("## The tree")[1].split("##")[0]
    for path in (ROOT / "fsgen").iterdir():
        if path.stem not in ("__init__", "cli", "console", "__pycache__"):
            assert re.search(rf"\b{path.stem}\b", tree), path.stem
