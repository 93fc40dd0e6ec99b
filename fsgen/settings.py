"""params.yaml read in one place: sections built, then checked as a whole."""

import typing
from pathlib import Path

from fsgen import checks
from fsgen.policies import Router, method_table, policy_table
from fsgen.sections import (
    Compute,
    Curriculum,
    Dataset,
    Dump,
    Member,
    Model,
    Pair,
    Report,
    Settings,
    Tuned,
)
from fsgen.typed import build, mapping, read_yaml


def load(path: str | Path = "params.yaml") -> Settings:
    """Settings of a params file, validated as a whole.

    Raises Complaint, one sentence, on the first thing that does not hold; no model and no data is
    opened for that, only the existence of local files is looked at.
    """
    settings = _parse(read_yaml(Path(path)))
    for check in checks.CHECKS:
        check(settings)
    return settings


def _parse(raw: dict) -> Settings:
    checks.check_sections(raw)
    raw = dict(raw)
    methods = method_table(mapping(raw.pop("methods", None), "methods"))
    routers = {
        name: build(Router, {"rule": name} | mapping(entry or {}, f"routers.{name}"), f"routers.{name}")
        for name, entry in mapping(raw.pop("routers", None), "routers").items()
    }
    policies = policy_table(raw.pop("policies", None), methods, routers)
    tables = {"datasets": Dataset, "models": Model, "pairs": Pair, "family": Member, "tuned": Tuned}
    built: dict[str, typing.Any] = {}
    for section, cls in tables.items():
        entries = mapping(raw.pop(section, {}), section)
        built[section] = {n: build(cls, e, f"{section}.{n}") for n, e in entries.items()}
    for section, cls in {
        "dump": Dump,
        "compute": Compute,
        "report": Report,
        "curriculum": Curriculum,
    }.items():
        if section in raw:
            built[section] = build(cls, raw.pop(section), section)
    return build(
        Settings, raw | built | {"methods": methods, "routers": routers, "policies": policies}, "params.yaml"
    )
