"""What of the code a shard's fingerprint holds: every expression that can run, and no word about it."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from fsgen.config import registry
from fsgen.execution import code

SOURCE = '''
"""A module."""

from fsgen.models import sizes

LIMIT = 3
"""How many."""


class Entry:
    """An entry."""

    width: int = 2
    """Its width."""

    def area(self):
        """Its area."""
        return self.width * sizes.HEIGHT
'''
REWORDED = '''
"""What this module is for, in other words."""

from fsgen.models import sizes

LIMIT = 3


class Entry:
    """One entry of several."""

    width: int = 2  # columns

    def area(self):
        # the product
        return (
            self.width
            * sizes.HEIGHT
        )
'''


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A package of three files: decoding/entry.py imports models/sizes.py, which imports models/units.py."""
    monkeypatch.setattr(code, "ROOT", tmp_path)
    write(tmp_path, "decoding/entry.py", SOURCE)
    write(tmp_path, "models/sizes.py", "from fsgen.models.units import UNIT\n\nHEIGHT = 5 * UNIT\n")
    write(tmp_path, "models/units.py", "from fsgen.tables import columns\n\nUNIT = columns.UNIT\n")
    write(tmp_path, "tables/columns.py", "UNIT = 1\n")
    yield tmp_path
    code.code_digest.cache_clear()


def write(root: Path, file: str, text: str) -> None:
    (root / file).parent.mkdir(exist_ok=True)
    (root / file).write_text(text)


def digest() -> str:
    """The digest of the entry module as its files are now."""
    code.code_digest.cache_clear()
    return code.code_digest("fsgen.decoding.entry")


def test_a_digest_ignores_words_and_layout(package):
    """Docstrings, sentences below fields and constants, comments, line breaks."""
    before = digest()
    write(package, "decoding/entry.py", REWORDED)
    assert digest() == before


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("LIMIT = 3", "LIMIT = 4"),
        ("self.width *", "self.width +"),
        ("width: int = 2", "width: int = 20"),
        ("def area(self)", "def area(self, /)"),
        ('    width: int = 2\n    """Its width."""\n', '    width: int = 2\n    note = """Its width."""\n'),
    ],
)
def test_a_digest_changes_with_what_runs(package, old, new):
    """A constant, an operator, a default, a signature, a string that is used."""
    before = digest()
    assert SOURCE.count(old) == 1
    write(package, "decoding/entry.py", SOURCE.replace(old, new))
    assert digest() != before


def test_a_digest_covers_what_is_imported_two_steps_down(package):
    """And leaves out the packages whose contents are values: the settings, the tables."""
    assert code.imports("fsgen.decoding.entry") == [
        "fsgen.decoding.entry",
        "fsgen.models.sizes",
        "fsgen.models.units",
    ]
    before = digest()
    write(package, "tables/columns.py", "UNIT = 2\n")
    assert digest() == before
    write(package, "models/units.py", "from fsgen.tables import columns\n\nUNIT = 2 * columns.UNIT\n")
    assert digest() != before


def test_imports_inside_functions_count(package):
    """A lazy import runs too."""
    write(
        package,
        "decoding/entry.py",
        "def area():\n    from fsgen.models.units import UNIT\n    return UNIT\n",
    )
    assert code.imports("fsgen.decoding.entry") == ["fsgen.decoding.entry", "fsgen.models.units"]


def test_a_circle_ends(package):
    """Two modules that import each other have a digest."""
    write(package, "models/units.py", "from fsgen.decoding import entry\n\nUNIT = 1\n")
    assert len(code.imports("fsgen.decoding.entry")) == 3


def test_what_a_registry_names_has_its_own_digest(package, monkeypatch):
    """A rule or a router is imported by its name alone; a change of its file counts for those that use it."""
    monkeypatch.setitem(registry.ROUTERS, "unit", "fsgen.models.sizes:SCORE")
    before = code.definition_digest(registry.ROUTERS, "unit")
    assert before == code.code_digest("fsgen.models.sizes")
    write(package, "models/units.py", "UNIT = 3\n")
    code.code_digest.cache_clear()
    assert code.definition_digest(registry.ROUTERS, "unit") != before


def test_a_registry_line_may_name_another_package(package, monkeypatch):
    """Of such a module its own code counts, and what it imports of fsgen."""
    monkeypatch.syspath_prepend(package)
    monkeypatch.setitem(registry.ROUTERS, "unit", "adjacent:SCORE")
    write(package, "adjacent.py", "from fsgen.models.units import UNIT\n\nSCORE = UNIT\n")
    before = code.definition_digest(registry.ROUTERS, "unit")
    assert code.imports("adjacent") == ["adjacent", "fsgen.models.units"]
    write(package, "adjacent.py", "from fsgen.models.units import UNIT\n\nSCORE = -UNIT\n")
    code.code_digest.cache_clear()
    assert code.definition_digest(registry.ROUTERS, "unit") != before


def run_dump_solo(package: Path) -> None:
    """The stage `dump_solo` of the model `small`, by a copy of the package."""
    script = Path(code.__file__).parents[2] / "stages/dump_solo.py"
    environment = os.environ | {"PYTHONPATH": str(package)}
    words = [sys.executable, str(script), "--model", "small"]
    done = subprocess.run(words, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def files_with_times(folder: str) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in Path(folder).rglob("*.parquet")}


def contents(folder: str) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in Path(folder).rglob("*.parquet")}


def reword(file: Path, old: str, new: str) -> None:
    text = file.read_text()
    assert text.count(old) == 1
    file.write_text(text.replace(old, new))


def test_a_reworded_docstring_runs_no_model(tiny_world, tiny_checkpoints, tmp_path):
    """The stage takes every shard from scratch and needs no weights; a new constant makes them anew."""
    shutil.copytree(Path(code.__file__).parents[1], tmp_path / "copy/fsgen")
    greedy = tmp_path / "copy/fsgen/decoding/greedy.py"
    Path("checkpoints").unlink()
    shutil.copytree(tiny_checkpoints, "checkpoints")
    run_dump_solo(tmp_path / "copy")
    made, dumped = files_with_times("scratch"), contents("data/dumps")
    assert len(made) == len(dumped) == 6

    reword(greedy, '"""The local Generator:', '"""The Generator of this process:')
    weights = Path("checkpoints/small/model.safetensors").rename("hidden.safetensors")
    run_dump_solo(tmp_path / "copy")
    assert files_with_times("scratch") == made
    assert contents("data/dumps") == dumped

    weights.rename("checkpoints/small/model.safetensors")
    with greedy.open("a") as file:
        file.write("\nUNUSED = 1\n")
    run_dump_solo(tmp_path / "copy")
    assert len(files_with_times("scratch")) == 12
    assert contents("data/dumps") == dumped
