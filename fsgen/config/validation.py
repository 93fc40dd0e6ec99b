"""Checks of well-formed settings: names that lead nowhere, values that cannot be."""

import math
import re
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path

from fsgen.config import registry
from fsgen.config.renamed import refuse_section
from fsgen.config.roles import TUNED
from fsgen.config.schema import DatasetConfig, ModelConfig, Settings
from fsgen.errors import UserError, lookup_or_suggest

RESERVED = {"scaling", "published", "comparisons", "uncertainty"}  # metrics files that are no dataset's
ENTRIES = {  # how an entry is written in a section that a command cannot go without
    "datasets": "gsm8k: {task: gsm8k, max_new_tokens: 256}",
    "models": "tiny: {path: checkpoints/tiny, prompt_format: plain}",
    "pairs": "duo: {small: tiny, tuned: tiny, large: big}",
    "methods": "oracle: {rule: oracle}",
}


def check_sections(raw: dict) -> None:
    """Of the file as it was read: keys that exist, and entries; models may well be run without any pair."""
    for key in raw:
        refuse_section(key)
        lookup_or_suggest(
            dict.fromkeys(field.name for field in fields(Settings)), key, "the keys of params.yaml"
        )
    for section in ("datasets", "models", "methods"):
        refuse_empty(section, raw.get(section))


def refuse_empty(section: str, entries: object) -> None:
    """UserError, with an example, where a section of params.yaml is missing or holds no entry."""
    if entries in (None, {}):
        raise UserError(
            f"params.yaml should name at least one entry under '{section}', got none; "
            f"add one such as '{ENTRIES[section]}'."
        )


def check_names(settings: Settings) -> None:
    """Names that DVC and folders can hold: a dot is a step into a mapping for DVC."""
    for section in (
        "datasets",
        "models",
        "pairs",
        "methods",
        "routers",
        "embedded_models",
        "embedded_finetunes",
    ):
        for name in getattr(settings, section):
            if not re.fullmatch(r"[A-Za-z0-9_-]+", str(name)) or not isinstance(name, str):
                raise UserError(f"{section} holds the name {name!r}; use letters, digits, '-' and '_' alone.")
    both = sorted(set(settings.embedded_models) & set(settings.embedded_finetunes))
    if both:
        raise UserError(
            f"'{both[0]}' is in embedded_models and in embedded_finetunes, which share a folder; rename one."
        )


def check_routers(settings: Settings) -> None:
    """Rules that exist, names that do not mislead, thresholds where a score is compared with one."""
    for name, router in settings.routers.items():
        definition = registry.resolve(
            registry.ROUTERS, router.rule, f"the rules that routers.{name} can name"
        )
        if name in registry.ROUTERS and name != router.rule:
            raise UserError(
                f"routers.{name} should be the rule of that name, got '{router.rule}'; rename it."
            )
        if router.threshold is not None and definition.score is None:
            raise UserError(
                f"routers.{name}.threshold has no meaning for the rule '{router.rule}'; remove it."
            )


def check_seed_and_sandbox(settings: Settings) -> None:
    """A seed that generators take, and a sandbox that exists."""
    if settings.seed < 0:
        raise UserError(f"seed should be at least 0, got {settings.seed}; choose another.")
    if settings.sandbox not in ("strict", "weak"):
        raise UserError(f"sandbox should be strict or weak, got '{settings.sandbox}'.")


def check_methods(settings: Settings) -> None:
    """A method that every pair can roll out, and lists that hold what the masks need."""
    rules = [method.definition for method in settings.methods.values()]
    if all(rule.drafts or TUNED in rule.requires for rule in rules):
        raise UserError("methods should hold one with a rule that every pair can roll out; add oracle.")
    for name, method in settings.methods.items():
        alpha = method.parameters["alpha"] if method.definition.masked else 1.0
        if settings.dump.nats_below_top <= -math.log(alpha):
            raise UserError(
                f"dump.nats_below_top {settings.dump.nats_below_top} should exceed -ln alpha = "
                f"{-math.log(alpha):.3f} of methods.{name}."
            )


def check_datasets(settings: Settings) -> None:
    """Tasks that exist, data that is there, counts that can be, and leave to run code."""
    for name in settings.datasets.keys() & RESERVED:
        raise UserError(f"datasets holds the name '{name}', whose metrics file is taken; rename it.")
    for name, entry in settings.datasets.items():
        _check_dataset(name, entry)
        _check_task(name, entry, settings.allow_code_execution)


def _check_dataset(name: str, entry: DatasetConfig) -> None:
    if entry.path is not None and not Path(entry.path).exists():
        raise UserError(
            f"datasets.{name}.path: there is nothing at '{entry.path}'; correct it or fetch the data."
        )
    if entry.max_new_tokens < 1 or entry.shots < 0 or (entry.limit is not None and entry.limit < 1):
        raise UserError(f"datasets.{name} should have max_new_tokens and limit above 0 and shots at least 0.")
    if not 0 < entry.calibration_share < 1:
        raise UserError(
            f"datasets.{name}.calibration_share should be a share between 0 and 1, "
            f"got {entry.calibration_share}."
        )


def _check_task(name: str, entry: DatasetConfig, allow_code_execution: bool) -> None:
    task = registry.resolve(registry.TASKS, entry.task, f"the tasks that datasets.{name} can name")
    if task.runs_code and not allow_code_execution:
        raise UserError(
            f"datasets.{name} is graded by running code that models wrote; "
            "set 'allow_code_execution: true' in params.yaml, or give 'fsgen run' the flag "
            "--allow-code-execution, if this machine may do so, in a sandbox."
        )


def check_models(settings: Settings) -> None:
    """One source each, pinned if it is a hub; prompt modes, sizes and precisions that exist."""
    members = {**settings.embedded_models, **settings.embedded_finetunes}
    for name, entry in settings.models.items():
        _check_source(name, entry, members)
        _check_model_values(name, entry)
    for name, entry in settings.embedded_finetunes.items():
        lookup_or_suggest(
            settings.embedded_models, entry.base, f"the models that embedded_finetunes.{name}.base can name"
        )


def _check_source(name: str, entry: ModelConfig, members: Mapping[str, object]) -> None:
    sources = [source for source in ("hub", "path", "embedded") if getattr(entry, source) is not None]
    if len(sources) != 1:
        raise UserError(f"models.{name} should name one of hub, path, embedded, got {sources or 'none'}.")
    if entry.embedded is not None:
        lookup_or_suggest(members, entry.embedded, f"the embedded models that models.{name} can name")
    if entry.path is not None and not (Path(entry.path) / "config.json").is_file():
        raise UserError(
            f"models.{name}.path: '{entry.path}' is no checkpoint folder (no config.json); correct it."
        )
    if (entry.hub is None) != (entry.revision is None):
        raise UserError(
            f"models.{name} should pin a hub model by 'revision' (a commit), and only a hub model."
        )


def _check_model_values(name: str, entry: ModelConfig) -> None:
    if entry.prompt_format not in ("plain", "chat"):
        raise UserError(
            f"models.{name}.prompt_format should be 'plain' or 'chat', got '{entry.prompt_format}'."
        )
    if entry.parameter_count is not None and entry.parameter_count <= 0:
        raise UserError(
            f"models.{name}.parameter_count should be above 0, got {entry.parameter_count}; correct it."
        )
    if entry.dtype not in (None, "float32", "bfloat16"):
        raise UserError(f"models.{name}.dtype should be float32 or bfloat16, got '{entry.dtype}'.")


def check_pairs(settings: Settings) -> None:
    """Models that exist, differ, and share a prompt format."""
    for name, pair in settings.pairs.items():
        for role, model in pair.roles().items():
            lookup_or_suggest(settings.models, model, f"the models that pairs.{name}.{role} can name")
        if pair.large in (pair.small, pair.tuned):
            raise UserError(
                f"pairs.{name} names '{pair.large}' twice; a pair is a small and another, large model."
            )
        modes = {settings.models[model].prompt_format for model in pair.roles().values()}
        if len(modes) > 1:
            raise UserError(
                f"pairs.{name} mixes plain and chat prompts; give its models the same 'prompt_format'."
            )


def check_dump(settings: Settings) -> None:
    """Lists that hold a margin, and shards that hold a prompt."""
    dump = settings.dump
    if not 2 <= dump.min_top_k <= dump.max_top_k or dump.prompts_per_shard < 1 or dump.tokens_after_stop < 0:
        raise UserError(
            "dump should have 2 <= min_top_k <= max_top_k (two ids make a margin), prompts_per_shard >= 1 "
            "and tokens_after_stop >= 0."
        )


def check_compute(settings: Settings) -> None:
    """Devices, precisions and amounts that can be, and an executor that exists."""
    compute = settings.compute
    if compute.device not in ("auto", "cpu", "cuda") or compute.dtype not in ("auto", "float32", "bfloat16"):
        raise UserError(
            "compute.device should be auto, cpu or cuda and compute.dtype auto, float32 or bfloat16."
        )
    if compute.batch_size < 1 or compute.max_batch_tokens < 1 or settings.report.explorer_prompts < 1:
        raise UserError(
            "compute.batch_size, compute.max_batch_tokens and report.explorer_prompts should be at least 1."
        )
    if compute.replicas < 1 or compute.gpus_per_replica < 0:
        raise UserError("compute.replicas should be at least 1 and compute.gpus_per_replica at least 0.")
    if not compute.definition.is_cluster and (compute.replicas, compute.gpus_per_replica) != (1, 0):
        raise UserError(
            "compute.replicas and gpus_per_replica apply to the executor ray alone; remove them or "
            "set compute.executor: ray."
        )


CHECKS = (
    check_names,
    check_routers,
    check_seed_and_sandbox,
    check_datasets,
    check_models,
    check_pairs,
    check_dump,
    check_methods,
    check_compute,
)
