"""Parse YAML mappings into frozen dataclasses; one sentence says why a mapping does not fit."""

import types
import typing
from dataclasses import MISSING, fields
from pathlib import Path

import yaml

from fsgen.config.renamed import refuse_key
from fsgen.errors import UserError, lookup_or_suggest


class _Loader(yaml.SafeLoader):
    """Reads what a safe loader reads, but lets no key silently replace an earlier one of its mapping."""

    def compose_mapping_node(self, anchor: str | None) -> yaml.MappingNode:
        """The mapping's node; UserError where two of its keys are the same."""
        node = super().compose_mapping_node(anchor)
        lines: dict[tuple, int] = {}
        for key, _ in node.value:
            written, line = (key.tag, str(key.value)), key.start_mark.line + 1
            if written in lines:
                raise UserError(
                    f"{key.start_mark.name} should hold every key of a mapping once, got '{key.value}' on "
                    f"line {lines[written]} and again on line {line}; merge the two."
                )
            lines[written] = line
        return node


def read_yaml(path: Path) -> dict:
    """The mapping that a params file holds; UserError where it holds a key twice."""
    if not path.is_file():
        raise UserError(f"There is no params file at {path}; run from the project's folder.")
    try:
        with path.open() as file:
            raw = yaml.load(file, _Loader)
    except yaml.YAMLError as error:
        where = f" (line {error.problem_mark.line + 1})" if getattr(error, "problem_mark", None) else ""
        raise UserError(f"{path}{where} is not valid YAML; mend its syntax.") from error
    if not isinstance(raw, dict):
        raise UserError(f"{path} should hold a mapping of settings, got {type(raw).__name__}.")
    return raw


def require_mapping(value: object, where: str) -> dict:
    """The value, if it is a mapping; else a UserError that says where."""
    if not isinstance(value, dict):
        raise UserError(f"{where} should be a mapping of names to settings, got {value!r}.")
    return value


def from_mapping(cls: type, raw: object, where: str) -> typing.Any:
    """An instance of `cls` from a mapping whose keys and types are exactly its fields'."""
    raw = require_mapping(raw, where)
    hints = typing.get_type_hints(cls)
    for key in raw:
        refuse_key(where, key)
        lookup_or_suggest(hints, key, f"the keys of {where}")
    missing = [
        f.name
        for f in fields(cls)
        if f.name not in raw and f.default is MISSING and f.default_factory is MISSING
    ]
    if missing:
        raise UserError(f"{where} lacks the key '{missing[0]}'; add it.")
    return cls(**{key: coerce(value, hints[key], f"{where}.{key}") for key, value in raw.items()})


def coerce(value: object, hint: typing.Any, where: str) -> typing.Any:
    """The value, if YAML gave it the type that the field announces."""
    options = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    if any(
        typing.get_origin(option) is dict or hasattr(option, "__dataclass_fields__") for option in options
    ):
        return value  # built already
    if tuple in map(typing.get_origin, options) and isinstance(value, list | tuple):
        return tuple(value)
    allowed = tuple(option for option in options if typing.get_origin(option) is None)
    if float in allowed and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if isinstance(value, allowed) and not (isinstance(value, bool) and bool not in allowed):
        return value
    names = " or ".join("nothing" if o is types.NoneType else getattr(o, "__name__", str(o)) for o in options)
    hint = "with a dot, as in 1.0e-5" if float in allowed else "as such"
    raise UserError(f"{where} should be {names}, got {value!r}; write it {hint}.")
