"""params.yaml read in one place: sections built, then checked as a whole."""

import typing
from pathlib import Path

from fsgen.config import validation
from fsgen.config.parsing import from_mapping, read_yaml, require_mapping
from fsgen.config.policies import RouterConfig, method_table, policy_table
from fsgen.config.renamed import refuse_router_rule
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


def load_settings(path: str | Path = "params.yaml") -> Settings:
    """Settings of a params file, validated as a whole.

    Raises UserError, one sentence, on the first thing that does not hold; no model and no data is
    opened for that, only the existence of local files is looked at.
    """
    settings = _parse(read_yaml(Path(path)))
    for check in validation.CHECKS:
        check(settings)
    return settings


def _parse_router(name: str, entry: object) -> RouterConfig:
    where = f"routers.{name}"
    raw = {"rule": name} | require_mapping(entry or {}, where)
    refuse_router_rule(where, raw["rule"])
    return from_mapping(RouterConfig, raw, where)


def _parse(raw: dict) -> Settings:
    validation.check_sections(raw)
    raw = dict(raw)
    methods = method_table(require_mapping(raw.pop("methods", None), "methods"))
    entries = require_mapping(raw.pop("routers", None), "routers")
    routers = {name: _parse_router(name, entry) for name, entry in entries.items()}
    policies = policy_table(raw.pop("policies", None), methods, routers)
    tables = {
        "datasets": DatasetConfig,
        "models": ModelConfig,
        "pairs": PairConfig,
        "embedded_models": PretrainConfig,
        "embedded_finetunes": FinetuneConfig,
    }
    built: dict[str, typing.Any] = {}
    for section, cls in tables.items():
        entries = require_mapping(raw.pop(section, {}), section)
        built[section] = {n: from_mapping(cls, e, f"{section}.{n}") for n, e in entries.items()}
    for section, cls in {
        "dump": DumpConfig,
        "compute": ComputeConfig,
        "report": ReportConfig,
        "embedded_curriculum": CurriculumConfig,
    }.items():
        if section in raw:
            built[section] = from_mapping(cls, raw.pop(section), section)
    return from_mapping(
        Settings, raw | built | {"methods": methods, "routers": routers, "policies": policies}, "params.yaml"
    )
