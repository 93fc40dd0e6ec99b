"""The plan of the house: imports go down, torch stays in its rooms, dvc.yaml tells the truth."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from fsgen.collaboration import fusion, routers
from fsgen.config import policies, validation
from fsgen.decoding import dump_rollouts, dump_solo, dump_teacher_forced
from fsgen.decoding.rollout import rollout
from fsgen.execution import executors
from fsgen.models import loading
from fsgen.tasks import registry

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "fsgen"
FLOORS = [
    {"typed", "harness", "timings"},
    {"policies", "console", "sandbox", "judge"},
    {"sections", "store", "views"},
    {"checks", "depot"},
    {"settings"},
    {
        "lake",
        "tasks",
        "checkpoints",
        "fusion",
        "costs",
        "intervals",
        "speakers",
        "laws",
        "figures",
        "tidying",
    },
    {"outlines"},
    {
        "family",
        "models",
        "shards",
        "records",
        "texts",
        "nodes",
        "learned",
        "spending",
        "vocabulary",
        "fusing",
        "showing",
        "estimates",
    },
    {
        "compared",
        "discrimination",
        "embedding",
        "parameters",
        "routers",
        "cursor",
        "tallies",
        "benchmarks",
        "environment",
        "waiting",
    },
    {"positions", "series", "prediction", "comparison", "report", "workers"},
    {"cluster"},
    {"engines"},
    {"trunks", "heads", "simulation", "decoding", "forcing", "evaluation", "grading", "results"},
    {"tree", "reading", "closeups", "stability", "pace", "uncertainty", "published", "scaling"},
    {"rolled", "generation"},
    {"rollout"},
    {"trial"},
    {"cli"},
]
FLOOR_OF = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}
TORCH_ROOMS = {
    "family",
    "models",
    "records",
    "cursor",
    "decoding",
    "forcing",
    "tree",
    "heads",
    "generation",
    "pace",
    "environment",
    "cluster",
}
# params, the terminal, who makes a shard, where it is kept: it reaches a stage as a value, or changes no byte
UNTRACKED = {
    f"fsgen/{room}.py"
    for room in (
        *("typed", "policies", "sections", "checks", "settings", "console", "timings"),
        *("workers", "cluster", "engines", "depot"),
    )
}
STAGES = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]


def imported_files(path: Path) -> set[Path]:
    """Files of the package that `path` imports, anywhere in it; docstring-only __init__ files left out."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "fsgen":
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names if alias.name.split(".")[0] == "fsgen"]
        else:
            continue
        found |= {file for name in names if (file := ROOT / (name.replace(".", "/") + ".py")).exists()}
    return found


def import_closure(path: Path) -> set[str]:
    """Every file of the package that running `path` can execute, relative to the root."""
    seen: set[Path] = set()
    todo = [path]
    while todo:
        fresh = imported_files(todo.pop()) - seen
        seen |= fresh
        todo += fresh
    return {str(file.relative_to(ROOT)) for file in seen} - UNTRACKED


def room(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def test_every_room_has_a_floor():
    """No file of the package stands outside the plan."""
    assert {room(path) for path in PACKAGE.rglob("*.py")} - {"__init__"} == set(FLOOR_OF)


def test_imports_only_go_down():
    """A room uses the floors below it, and nothing beside or above."""
    upward = {
        (room(path), room(used))
        for path in PACKAGE.rglob("*.py")
        if room(path) != "__init__"
        for used in imported_files(path)
        if room(used) != room(path) and FLOOR_OF[room(used)] >= FLOOR_OF[room(path)]
    }  # fmt: skip

    assert upward == set()


def test_torch_stays_in_its_rooms():
    """Whatever runs after the dumps needs no torch."""
    users = {
        room(path)
        for path in PACKAGE.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if (isinstance(node, ast.Import) and any(alias.name.split(".")[0] == "torch" for alias in node.names))
        or (isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "torch")
    }

    assert users == TORCH_ROOMS


def test_arithmetic_on_the_dumps_needs_no_torch():
    """Not even through a library: the CPU stages start without it."""
    rooms = "benchmarks, comparison, evaluation, grading, published, scaling, simulation, uncertainty"
    rooms += "; from fsgen.report import writing"
    heavy = "{'torch', 'transformers', 'openai', 'sympy'}"
    code = f"import sys; from fsgen import {rooms}; assert not {heavy} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_inits_hold_nothing_but_a_sentence():
    """Code in an __init__ would run in every stage without standing in its dependencies."""
    for path in PACKAGE.rglob("__init__.py"):
        (only,) = ast.parse(path.read_text()).body
        assert isinstance(only, ast.Expr)


def test_what_is_public_says_what_it_is():
    """Every module, and every function, class and method without an underscore, has its sentence."""
    silent = []
    for path in PACKAGE.rglob("*.py"):
        module = ast.parse(path.read_text())
        bodies = (node for node in module.body if isinstance(node, ast.ClassDef))
        classes = [node for node in bodies if not node.name.startswith("_")]
        inside = [node for owner in [module, *classes] for node in owner.body]
        named = [node for node in inside if isinstance(node, (ast.FunctionDef, ast.ClassDef))]
        public = [node for node in named if not node.name.startswith("_")]
        silent += [f"{path.name}: {node.name}" for node in public if not ast.get_docstring(node)]
        silent += [] if ast.get_docstring(module) else [path.name]
    assert silent == []


@pytest.mark.parametrize("name", STAGES)
def test_declared_code_equals_imported_code(name):
    """A stage is stale exactly when code that it can run has changed."""
    stage = STAGES[name].get("do", STAGES[name])
    entry = next(word for word in stage["cmd"].split() if word.startswith("stages/"))
    declared = {dep for dep in stage["deps"] if dep.startswith(("fsgen/", "stages/")) and dep.endswith(".py")}

    assert import_closure(ROOT / entry) | {entry} == declared


@pytest.mark.parametrize(
    ("stage", "module"),
    {
        "dump_solo": dump_solo,
        "dump_large": dump_teacher_forced,
        "dump_small": dump_teacher_forced,
        "rollout": rollout,
        "close_up": dump_rollouts,
    }.items(),
)
def test_a_shard_is_made_anew_exactly_when_code_that_it_runs_has_changed(stage, module):
    """Its facts hold the digest of every room but those whose values are facts themselves."""
    closure = {Path(file).stem for file in import_closure(ROOT / f"stages/{stage}.py")}
    told = {
        "store",
        "shards",
        "checkpoints",
        "outlines",
    }  # what these hold reaches the facts as values, or no byte

    assert set(loading.SHARED_CODE) | set(module.ROOMS) | told == closure | set(loading.SHARED_CODE)


def test_no_stage_is_stale_for_who_makes_its_shards():
    """Of `compute` a stage names what its bytes depend on, and no engine."""
    named = {param for stage in STAGES.values() for param in stage.get("do", stage).get("params", [])}

    assert {p for p in named if isinstance(p, str) and p.startswith("compute")} == {
        *("compute.device", "compute.dtype", "compute.rows", "compute.read_tokens")
    }


def test_what_tasks_read_beside_code_is_declared():
    """Solved examples are data of the package, and prompts are made of them."""
    folder = PACKAGE / "tasks" / "exemplars"

    assert {f"{name}.json" for name in ("bbh", "mmlu_stem")} == {path.name for path in folder.iterdir()}
    assert str(folder.relative_to(ROOT)) in STAGES["prompts"]["do"]["deps"]
    assert {"fsgen/report/assets", "queries/figures"} <= set(STAGES["report"]["deps"])


def test_names_in_settings_are_the_registries():
    """What params.yaml may name is what the registries hold."""
    assert set(validation.TASK_NAMES) == set(registry.TASKS)
    assert policies.RULE_DEFAULTS.keys() == fusion.RULES.keys()
    assert set(policies.SCORED_ROUTERS) == set(routers.ROUTERS)
    assert set(validation.ENGINE_NAMES) == set(executors.EXECUTORS)
    assert set(policies.ROUTER_NAMES) > set(policies.SCORED_ROUTERS)
