"""docs/params.md says of every key of params.yaml what its dataclass says."""

import ast
import dataclasses
import inspect
import itertools
import os
from pathlib import Path

import pytest

from fsgen.config import policies
from fsgen.config.schema import (
    ComputeConfig,
    CurriculumConfig,
    DatasetConfig,
    DumpConfig,
    FinetuneConfig,
    ModelConfig,
    PairConfig,
    PretrainConfig,
    ReportConfig,
    Settings,
)

PAGE = Path(__file__).parent.parent / "docs" / "params.md"
SECTIONS = {
    "the file": Settings,
    "datasets": DatasetConfig,
    "models": ModelConfig,
    "pairs": PairConfig,
    "methods": policies.Method,
    "routers": policies.RouterConfig,
    "dump": DumpConfig,
    "compute": ComputeConfig,
    "report": ReportConfig,
    "embedded_curriculum": CurriculumConfig,
    "embedded_models": PretrainConfig,
    "embedded_finetunes": FinetuneConfig,
}


def sentences(section: type) -> dict[str, str]:
    """Field to the string that stands below it."""
    body = ast.parse(inspect.getsource(section)).body[0].body
    return {
        field.target.id: inspect.cleandoc(below.value.value).replace("\n", " ")
        for field, below in itertools.pairwise(body)
        if isinstance(field, ast.AnnAssign)
        and isinstance(below, ast.Expr)
        and isinstance(below.value, ast.Constant)
    }


def row(field: dataclasses.Field, about: str) -> str:
    """Its key, what it is without, and what it means."""
    none = dataclasses.MISSING
    has_default = field.default is not none or field.default_factory is not none or "by default" in about
    default = f"`{field.default}`" if field.default not in (None, none) else ""
    return f"| `{field.name}` | {default if has_default else 'needed'} | {about} |"


def page() -> str:
    """Every section as a table of its keys."""
    parts = ["# The keys of params.yaml", "Printed from the dataclasses that a file is read into."]
    for name, section in SECTIONS.items():
        meanings = sentences(section)
        rows = [row(field, meanings.get(field.name, "")) for field in dataclasses.fields(section)]
        parts.append(f"**{name}**: {inspect.cleandoc(section.__doc__)}")
        parts.append("\n".join(["| key | without it | meaning |", "|---|---|---|", *rows]))
    return "\n\n".join(parts) + "\n"


def test_the_page_is_printed_from_the_dataclasses():
    """A key that changes its meaning changes docs/params.md (FSGEN_WRITE_DOCS=1 writes it anew)."""
    if os.environ.get("FSGEN_WRITE_DOCS"):
        PAGE.write_text(page())
    assert PAGE.read_text() == page()


@pytest.mark.parametrize("name", SECTIONS)
def test_every_key_is_explained(name):
    """Those of a network's shape and training alone say enough by their names."""
    section = SECTIONS[name]
    missing = {field.name for field in dataclasses.fields(section)} - sentences(section).keys()

    assert not missing or name in ("embedded_models", "embedded_finetunes")
