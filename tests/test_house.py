"""The plan of the packages: who may import whom, where torch stays, what of the code dvc.yaml names."""

import ast
import functools
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest
import yaml

from fsgen.config import registry
from fsgen.config.roles import ROLES
from fsgen.execution import code

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "fsgen"
STAGES = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
GPU_STAGES = ("train", "tune", "dump_solo", "dump_large", "dump_small", "rollout", "dump_rollouts")
CPU_STAGES = [name for name in STAGES if name not in GPU_STAGES]

RUNNING = {"config", "errors", "execution", "tables"}
READING = RUNNING | {"collaboration", "models"}
MAY_IMPORT = {
    "errors": set(),
    "config": {"errors"},
    "tables": {"errors"},
    "execution": {"config", "errors", "tables"},
    "tasks": RUNNING | {"tasks.graders"},
    "tasks.graders": {"errors"},
    "collaboration": RUNNING,
    "models": RUNNING | {"tasks"},
    "decoding": READING | {"tasks"},
    "decoding.rollout": READING | {"tasks", "decoding"},
    "analysis": READING,
    "analysis.comparison": READING | {"analysis"},
    "analysis.scaling": READING | {"analysis"},
    "analysis.uncertainty": READING | {"analysis"},
    "report": READING | {"report.figures"},
    "report.figures": {"errors", "tables"},
}
MAY_IMPORT["cli"] = set(MAY_IMPORT)
MAY_IMPORT_TORCH = {"cli", "decoding", "decoding.rollout", "execution", "models"}


def package_of(path: Path) -> str:
    """The package of the plan that a file lies in, such as `decoding.rollout`; `errors` for errors.py.

    A sub-package without a line of its own is part of the one above.
    """
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    prefixes = (".".join(parts[:length]) for length in range(len(parts), 0, -1))
    return next((prefix for prefix in prefixes if prefix in MAY_IMPORT), parts[0])


FILES = [path for path in sorted(PACKAGE.rglob("*.py")) if path != PACKAGE / "__init__.py"]


@functools.cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


def imported_names(path: Path) -> set[str]:
    """Dotted names that a file imports, anywhere in it; `from a import b` gives `a` and `a.b`."""
    names: set[str] = set()
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.ImportFrom):
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
        elif isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
    return names


@functools.cache
def imported_files(path: Path) -> set[Path]:
    """Files of the package that a file imports; __init__ files hold a docstring alone and are left out."""
    return {
        file
        for name in imported_names(path)
        if name.split(".")[0] == "fsgen" and (file := ROOT / (name.replace(".", "/") + ".py")).is_file()
    }


def reached_files(path: Path) -> set[Path]:
    """Files whose code decides what a script writes: what it imports, and what registries name, in turn.

    Less `config` and `execution` and what only these import: they reach a stage as values, or change no byte.
    """
    reached: set[Path] = set()
    waiting = [path]
    while waiting:
        file = waiting.pop()
        fresh = {one for one in imported_files(file) | registered_files(file) if not is_value(one)} - reached
        reached |= fresh
        waiting += fresh
    return reached


def is_value(path: Path) -> bool:
    return package_of(path) in ("config", "errors", "execution")


@functools.cache
def registered_files(path: Path) -> set[Path]:
    """Files named by the registries that a file resolves names in; what `config` resolves are values."""
    if not path.is_relative_to(PACKAGE) or package_of(path) in code.VALUES_ONLY:
        return set()
    nodes = [*ast.walk(tree_of(path))]
    mentioned = {node.attr for node in nodes if isinstance(node, ast.Attribute)}
    mentioned |= {node.id for node in nodes if isinstance(node, ast.Name)}
    for node in nodes:
        if isinstance(node, ast.Attribute) and node.attr == "definition":  # resolved by `config`
            owner = ast.unparse(node.value).split(".")[-1]
            mentioned |= {*DEFINED_BY.get(owner, ("RULES", "ROUTERS"))}
    lines = [line for name, entries in REGISTRIES.items() if name in mentioned for line in entries.values()]
    return {ROOT / (line.partition(":")[0].replace(".", "/") + ".py") for line in lines}


# Registries behind `<owner>.definition` of params.yaml's sections, where they are not those of policies.
DEFINED_BY = {"compute": ("EXECUTORS",), "dataset": ("TASKS",)}
REGISTRIES = {name: value for name, value in vars(registry).items() if name.isupper()}


def test_every_package_has_its_line():
    """No package stands outside the plan, and the plan names none that is gone."""
    assert {package_of(path) for path in FILES} == set(MAY_IMPORT)


@pytest.mark.parametrize("package", MAY_IMPORT)
def test_a_package_imports_only_what_it_may(package):
    """Imports go down; what is imported lazily, inside functions, counts too."""
    refused = {
        f"{path.relative_to(ROOT)} imports {imported.relative_to(ROOT)}"
        for path in FILES
        if package_of(path) == package
        for imported in imported_files(path)
        if package_of(imported) not in MAY_IMPORT[package] | {package}
    }
    assert refused == set()


def test_the_plan_has_no_circle():
    """Neither between packages nor between files (graphlib raises CycleError, which names one)."""
    TopologicalSorter(MAY_IMPORT).prepare()
    TopologicalSorter({path: imported_files(path) for path in FILES}).prepare()


def test_torch_stays_where_models_run():
    """Whatever works on tables needs neither torch nor transformers."""
    heavy = {"torch", "transformers", "tokenizers"}
    users = {
        package_of(path) for path in FILES if heavy & {name.split(".")[0] for name in imported_names(path)}
    }
    assert users <= MAY_IMPORT_TORCH


HEAVY = {"torch", "transformers", "openai", "sympy"}


def test_cpu_stages_start_without_torch():
    """Not even through a library; `runpy` executes the imports of their scripts and not their mains."""
    runs = [f"runpy.run_path('stages/{stage}.py'); check('{stage}')" for stage in CPU_STAGES]
    check = f"check = lambda name: None if not {HEAVY} & set(sys.modules) else sys.exit(name)"
    script = "\n".join(["import runpy, sys", check, *runs])
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, stderr=subprocess.PIPE, text=True)
    assert done.stderr == ""
    assert done.returncode == 0


def test_help_starts_without_torch():
    """`fsgen --help` answers at once."""
    script = (
        "import sys; sys.argv = ['fsgen', '--help']\n"
        "from fsgen.cli.__main__ import main\n"
        "try: main()\n"
        f"except SystemExit: assert not {HEAVY} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", script], check=True, stdout=subprocess.DEVNULL)


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*/__init__.py")), ids=lambda path: path.parent.name)
def test_a_package_says_what_it_is_for(path):
    """In two sentences; code in an __init__ would run in every stage without standing in its dependencies."""
    (only,) = tree_of(path).body
    sentences = ast.get_docstring(tree_of(path)).replace("\n", " ").rstrip(".").split(". ")
    assert isinstance(only, ast.Expr)
    assert len(sentences) == 2


def test_what_is_public_is_documented():
    """Every module, and every function, class and method without an underscore, has a docstring."""
    silent = []
    for path in [*FILES, PACKAGE / "__init__.py", *(ROOT / "stages").glob("*.py")]:
        module = tree_of(path)
        silent += [] if ast.get_docstring(module) else [path.name]
        silent += [f"{path.name}: {node.name}" for node in public(module) if not ast.get_docstring(node)]
    assert [name for name in silent if not name.endswith(": main")] == []


def public(module: ast.Module) -> list[ast.FunctionDef | ast.ClassDef]:
    """Functions and classes of a module, and methods of these classes, without an underscore."""
    named = [node for node in module.body if isinstance(node, (ast.FunctionDef, ast.ClassDef))]
    named = [node for node in named if not node.name.startswith("_")]
    classes = [node for node in named if isinstance(node, ast.ClassDef)]
    methods = [node for owner in classes for node in owner.body if isinstance(node, ast.FunctionDef)]
    return named + [node for node in methods if not node.name.startswith("_")]


def declared_code(stage: str) -> tuple[Path, list[Path]]:
    """A stage's script, and the folders and files of the package that it depends on."""
    entry = STAGES[stage].get("do", STAGES[stage])
    (script,) = [word for word in entry["cmd"].split() if word.startswith("stages/")]
    assert script in entry["deps"]
    return ROOT / script, [ROOT / dep for dep in entry["deps"] if dep.startswith("fsgen/")]


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_depends_on_the_code_that_it_runs(stage):
    """A folder counts for all files below it; none is named that the stage does not reach."""
    script, declared = declared_code(stage)
    reached = reached_files(script)
    uncovered = {file for file in reached if not any(file.is_relative_to(one) for one in declared)}
    idle = [one for one in declared if not any(file.is_relative_to(one) for file in reached)]
    assert all(one.exists() for one in declared)
    assert uncovered == set()
    assert idle == []


def test_training_depends_on_nothing_else():
    """So that no other change makes the committed checkpoints stale: single files, no folder."""
    for stage in ("train", "tune"):
        script, declared = declared_code(stage)
        assert set(declared) == reached_files(script)


@pytest.mark.parametrize("stage", [stage for stage in STAGES if stage not in ("train", "tune")])
def test_the_code_digest_covers_what_a_stage_imports(stage):
    """Less the packages of VALUES_ONLY; the digest's walk and that of this file are written apart."""
    script, _ = declared_code(stage)
    for file in imported_files(script):
        if package_of(file) not in code.VALUES_ONLY:
            assert set(code.imports(dotted(file))) == {dotted(one) for one in (file, *imported_below(file))}


def dotted(path: Path) -> str:
    """The module that a file is, such as `fsgen.decoding.greedy`."""
    return ".".join(path.relative_to(ROOT).with_suffix("").parts)


def imported_below(path: Path) -> set[Path]:
    """Files that a file imports, directly or not, less the packages of VALUES_ONLY."""
    reached: set[Path] = set()
    waiting = [path]
    while waiting:
        fresh = {file for file in imported_files(waiting.pop()) if package_of(file) not in code.VALUES_ONLY}
        waiting += fresh - reached
        reached |= fresh
    return reached


def test_a_stage_names_no_executor():
    """Of `compute` it names what its bytes depend on, and not who makes its shards."""
    params = [param for stage in STAGES.values() for param in stage.get("do", stage).get("params", [])]

    assert {param for param in params if param.startswith("compute")} == {
        *("compute.device", "compute.dtype", "compute.batch_size", "compute.max_batch_tokens")
    }


def test_files_beside_the_code_are_declared():
    """Solved examples, the page's assets and the figures' queries make a stage stale too."""
    exemplars, assets = PACKAGE / "tasks" / "exemplars", PACKAGE / "report" / "assets"

    assert {f"{name}.json" for name in ("bbh", "mmlu_stem")} == {path.name for path in exemplars.iterdir()}
    assert any(exemplars.is_relative_to(dep) for dep in declared_code("prompts")[1])
    assert any(assets.is_relative_to(dep) for dep in declared_code("report")[1])
    assert "queries/figures" in STAGES["report"]["deps"]


@pytest.mark.parametrize("name", REGISTRIES)
def test_every_registry_line_leads_to_its_object(name):
    """And to one of its kind: all lines of a registry name objects of one type."""
    objects = [registry.resolve(REGISTRIES[name], key, "the registry") for key in REGISTRIES[name]]
    assert len({type(entry) for entry in objects}) == 1


COMPARISONS = (ast.Eq, ast.NotEq, ast.In, ast.NotIn)
MAY_COMPARE = {"collaboration", "config"}
NAMES = {*registry.RULES, *registry.ROUTERS, *ROLES}


def name_tests(tree: ast.Module) -> list[str]:
    """Comparisons of a syntax tree with a literal that names a rule, a router or a role: `line: source`."""
    comparisons = [node for node in ast.walk(tree) if isinstance(node, ast.Compare)]
    return [
        f"{node.lineno}: {ast.unparse(node)}"
        for node in comparisons
        if any(isinstance(operator, COMPARISONS) for operator in node.ops)
        and NAMES & {text for side in (node.left, *node.comparators) for text in strings(side)}
    ]


def strings(node: ast.expr) -> list[str]:
    """The strings that a literal holds: itself, or the entries of a tuple, a list or a set."""
    entries = node.elts if isinstance(node, (ast.Tuple, ast.List, ast.Set)) else [node]
    return [e.value for e in entries if isinstance(e, ast.Constant) and isinstance(e.value, str)]


def test_no_string_test_on_the_name_of_a_rule_a_router_or_a_role():
    """Rules and routers are asked through the objects that the registry names; roles have constants."""
    files = [path for path in FILES if package_of(path) not in MAY_COMPARE]
    assert [f"{path.relative_to(ROOT)}:{test}" for path in files for test in name_tests(tree_of(path))] == []


@pytest.mark.parametrize(
    ("source", "is_test"),
    {
        'rule == "proxy"': True,
        '"never" != name': True,
        'name in ("random", "x")': True,
        'x.rule not in {"oracle"}': True,
        'role == "large"': True,
        "role == LARGE": False,
        'kind == "line"': False,
        'label = "proxy"': False,
        'names["entropy"] > 1': False,
    }.items(),
)
def test_a_string_test_is_seen(source, is_test):
    """In each form that such a test has taken."""
    assert bool(name_tests(ast.parse(source))) == is_test
