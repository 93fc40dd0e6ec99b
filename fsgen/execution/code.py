"""A digest of code that ignores comments, docstrings and formatting.

A shard's fingerprint holds the digest of the code that made it. A reworded docstring therefore leaves every
finished shard valid, and a changed expression makes it anew.
"""

import ast
import functools
import hashlib
import importlib.util
from collections.abc import Mapping
from pathlib import Path

import fsgen

ROOT = Path(fsgen.__file__).parent
# What these packages hold reaches a fingerprint as values (settings, the format version) or changes no byte.
VALUES_ONLY = {"config", "errors", "execution", "tables"}
DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


@functools.cache
def code_digest(module: str) -> str:
    """Digest of a module's syntax tree and of those of all modules of fsgen that it imports, in turn.

    `module` is a dotted name such as `fsgen.decoding.dump_solo`. Packages in VALUES_ONLY are left out.
    """
    trees = {name: ast.dump(strip_docstrings(ast.parse(_path(name).read_text()))) for name in imports(module)}
    return hashlib.sha256(repr(sorted(trees.items())).encode()).hexdigest()


def definition_digest(registry: Mapping[str, str], name: str) -> str:
    """Digest of the code that a registry line names, such as a router.

    A module that resolves the name imports it at run time only, so its own digest does not hold that code.
    """
    return code_digest(registry[name].partition(":")[0])


def imports(module: str) -> list[str]:
    """The module and all modules of fsgen that it imports, directly or not, less those in VALUES_ONLY."""
    reached: set[str] = set()
    waiting = [module]
    while waiting:
        name = waiting.pop()
        if name not in reached and not _is_value(name):
            reached.add(name)
            waiting += _imported_modules(ast.parse(_path(name).read_text()))
    return sorted(reached)


def strip_docstrings(tree: ast.Module) -> ast.Module:
    """The tree without the strings that stand alone as statements; `ast.parse` has dropped the comments."""
    for node in ast.walk(tree):
        if isinstance(node, DOCUMENTED):
            node.body = [statement for statement in node.body if not _is_string(statement)] or [ast.Pass()]
    return tree


def _is_string(statement: ast.stmt) -> bool:
    """Whether a statement is a docstring, or a sentence below a field or a constant."""
    is_constant = isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)
    return is_constant and isinstance(statement.value.value, str)


def _imported_modules(tree: ast.Module) -> list[str]:
    """Dotted names of the modules of fsgen that the tree imports, anywhere in it."""
    names = []
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "fsgen":
            names += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
    return [name for name in names if _path(name).is_file()]


def _is_value(module: str) -> bool:
    """Whether a module lies in a package of VALUES_ONLY."""
    package, *parts = module.split(".")
    return package == "fsgen" and parts[0] in VALUES_ONLY


def _path(module: str) -> Path:
    """File of a module of fsgen, or of another package that a registry line names."""
    package, *parts = module.split(".")
    if package != "fsgen":
        return Path(importlib.util.find_spec(module).origin)
    return ROOT.joinpath(*parts).with_suffix(".py")
