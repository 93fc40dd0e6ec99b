"""params.yaml read in one place: frozen dataclasses, and every complaint about a setting."""

import math
import re
import typing
from dataclasses import dataclass, field
from pathlib import Path

from fsgen.policies import ROUTER_NAMES, SCORED_ROUTERS, Method, Policy, Router, method_table, policy_table
from fsgen.typed import Complaint, build, look_up, mapping, read_yaml

TASK_NAMES = ("arith", "gsm8k", "mmlu_stem", "mbpp", "math500", "bbh", "mtbench")
RESERVED = {"scaling", "published", "comparisons", "uncertainty"}  # files in metrics/ beside the datasets'
CODE_TASKS = ("mbpp",)  # their grading runs what a model wrote


@dataclass(frozen=True, kw_only=True)
class Dataset:
    task: str
    """Name of the benchmark, a key of `fsgen.benchmarks.TASKS`."""
    max_new_tokens: int
    """Longest turn a model may write, in tokens."""
    path: str | None = None
    """Local file or folder with the hub's column names; without it the hub is asked."""
    split: str = "test"
    limit: int | None = None
    """Number of prompts, calibration and test together, in a seeded order that a raise only extends."""
    shots: int = 0
    """Worked examples before the question."""
    calibration: float = 0.25
    """Share of the prompts on which routers are calibrated and which no result counts."""


@dataclass(frozen=True, kw_only=True)
class Model:
    prompt: str
    """`plain` text or the tokenizer's `chat` template; equal for all models of a pair."""
    hub: str | None = None
    revision: str | None = None
    """Commit of the hub repository; required with `hub`, so that results can be rebuilt."""
    path: str | None = None
    family: str | None = None
    """Name of a member of the embedded family."""
    dtype: str | None = None
    """`float32` or `bfloat16`; without it `compute.dtype` decides."""
    stop_tokens: tuple[str, ...] | None = None
    """Tokens that end a text; without it those that the checkpoint itself names."""
    parameters: float | None = None
    """All of them, for estimates before the checkpoint is fetched; one that differs by 5 % is refused."""


@dataclass(frozen=True, kw_only=True)
class Pair:
    small: str
    tuned: str
    """The small model after fine-tuning; the small model's own name where there is none (no proxy then)."""
    large: str

    @property
    def has_tuned(self) -> bool:
        return self.tuned != self.small

    def members(self) -> dict[str, str]:
        """Role to model name, in reading order; `tuned` only where there is one."""
        roles = {"small": self.small, "tuned": self.tuned, "large": self.large}
        return {r: m for r, m in roles.items() if r != "tuned" or self.has_tuned}


@dataclass(frozen=True, kw_only=True)
class Dump:
    depth: float
    """A stored list holds every id within so many nats of the maximum ..."""
    k_min: int
    """... at least so many ids, ..."""
    k_max: int
    """... at most so many."""
    block: int
    """Prompts in a shard."""
    tail: int = 0
    """Tokens kept after a stop string, outside every ratio."""


@dataclass(frozen=True, kw_only=True)
class Compute:
    device: str
    """`auto`, `cpu` or `cuda`."""
    dtype: str
    """`auto` (bfloat16 on CUDA, float32 elsewhere), `float32` or `bfloat16`."""
    rows: int
    """Texts written side by side."""
    read_tokens: int
    """Tokens of a reading batch, padding included."""


@dataclass(frozen=True, kw_only=True)
class Report:
    prompts: int
    """Test prompts of a dataset whose texts the report shows token by token."""


@dataclass(frozen=True, kw_only=True)
class Curriculum:
    """Shares of answer styles in the base models' training text."""

    worked: float
    terse: float
    wrong: float


@dataclass(frozen=True, kw_only=True)
class Member:
    """One base model of the embedded family."""

    hidden: int
    layers: int
    heads: int
    intermediate: int
    steps: int
    batch: int
    learning_rate: float
    seed: int


@dataclass(frozen=True, kw_only=True)
class Tuned:
    """One fine-tuned model of the embedded family."""

    base: str
    steps: int
    batch: int
    learning_rate: float
    seed: int


@dataclass(frozen=True, kw_only=True)
class Settings:
    seed: int
    datasets: dict[str, Dataset]
    models: dict[str, Model]
    pairs: dict[str, Pair]
    methods: dict[str, Method]
    routers: dict[str, Router]
    policies: tuple[Policy, ...]
    dump: Dump
    compute: Compute
    report: Report
    allow_code_execution: bool = False
    """Whether grading may run programs that a model wrote, in a sandbox."""
    sandbox: str = "strict"
    """`strict`, or `weak` to go on where this machine grants less than the whole sandbox."""
    curriculum: Curriculum | None = None
    family: dict[str, Member] = field(default_factory=dict)
    tuned: dict[str, Tuned] = field(default_factory=dict)

    def policies_of(self, pair: str) -> list[Policy]:
        """The policies that this pair runs: all of them, less proxy's where it has no tuned model."""
        has_tuned = self.pairs[pair].has_tuned
        return [p for p in self.policies if has_tuned or self.methods[p.method].rule != "proxy"]

    def methods_of(self, pair: str) -> dict[str, Method]:
        """The methods that this pair allows."""
        has_tuned = self.pairs[pair].has_tuned
        return {n: m for n, m in self.methods.items() if has_tuned or m.rule != "proxy"}

    def named(self, kind: str, name: str) -> typing.Any:
        """The entry `name` of the section `kind`, or a complaint that names the nearest one."""
        return look_up(getattr(self, kind), name, f"{kind} of params.yaml")


def load(path: str | Path = "params.yaml") -> Settings:
    """Settings of a params file, validated as a whole.

    Raises Complaint, one sentence, on the first thing that does not hold; no model and no data is
    opened for that, only the existence of local files is looked at.
    """
    settings = _parse(read_yaml(Path(path)))
    for check in (
        _check_names,
        _check_seed_and_methods,
        _check_datasets,
        _check_models,
        _check_pairs,
        _check_dump,
    ):
        check(settings)
    return settings


def _parse(raw: dict) -> Settings:
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


def _check_names(settings: Settings) -> None:
    """DVC reads a dot as a step into a mapping, and names become folders."""
    for section in ("datasets", "models", "pairs", "methods", "routers", "family", "tuned"):
        for name in getattr(settings, section):
            if not re.fullmatch(r"[A-Za-z0-9_-]+", str(name)) or not isinstance(name, str):
                raise Complaint(f"{section} holds the name {name!r}; use letters, digits, '-' and '_' alone.")
    for name, router in settings.routers.items():
        look_up(dict.fromkeys(ROUTER_NAMES), router.rule, f"the rules that routers.{name} can name")
        if name in ROUTER_NAMES and name != router.rule:
            raise Complaint(
                f"routers.{name} should be the rule of that name, got '{router.rule}'; rename it."
            )
        if router.at is not None and router.rule not in SCORED_ROUTERS:
            raise Complaint(f"routers.{name}.at has no meaning for the rule '{router.rule}'; remove it.")


def _check_seed_and_methods(settings: Settings) -> None:
    if settings.seed < 0:
        raise Complaint(f"seed should be at least 0, got {settings.seed}; choose another.")
    if all(method.rule in ("speculative", "proxy") for method in settings.methods.values()):
        raise Complaint("methods should hold one with a rule that every pair can roll out; add oracle.")
    if settings.sandbox not in ("strict", "weak"):
        raise Complaint(f"sandbox should be strict or weak, got '{settings.sandbox}'.")
    both = sorted(set(settings.family) & set(settings.tuned))
    if both:
        raise Complaint(f"'{both[0]}' stands in family and in tuned, which share a folder; rename one.")


def _check_datasets(settings: Settings) -> None:
    for name in settings.datasets.keys() & RESERVED:
        raise Complaint(f"datasets holds the name '{name}', whose metrics file is taken; rename it.")
    for name, entry in settings.datasets.items():
        look_up(dict.fromkeys(TASK_NAMES), entry.task, f"the tasks that datasets.{name} can name")
        if entry.path is not None and not Path(entry.path).exists():
            raise Complaint(
                f"datasets.{name}.path: there is nothing at '{entry.path}'; correct it or fetch the data."
            )
        if entry.max_new_tokens < 1 or entry.shots < 0 or (entry.limit is not None and entry.limit < 1):
            raise Complaint(
                f"datasets.{name} should have max_new_tokens and limit above 0 and shots at least 0."
            )
        if entry.task in CODE_TASKS and not settings.allow_code_execution:
            raise Complaint(
                f"datasets.{name} is graded by running code that models wrote; "
                "set 'allow_code_execution: true' if this machine may do so, in a sandbox."
            )
        if not 0 < entry.calibration < 1:
            raise Complaint(
                f"datasets.{name}.calibration should be a share between 0 and 1, got {entry.calibration}."
            )


def _check_models(settings: Settings) -> None:
    known = {**settings.family, **settings.tuned}
    for name, entry in settings.models.items():
        sources = [s for s in ("hub", "path", "family") if getattr(entry, s) is not None]
        if len(sources) != 1:
            raise Complaint(f"models.{name} should name one of hub, path, family, got {sources or 'none'}.")
        if entry.family is not None:
            look_up(known, entry.family, f"the family members that models.{name} can name")
        if entry.path is not None and not (Path(entry.path) / "config.json").is_file():
            raise Complaint(
                f"models.{name}.path: '{entry.path}' is no checkpoint folder (no config.json); correct it."
            )
        if (entry.hub is None) != (entry.revision is None):
            raise Complaint(
                f"models.{name} should pin a hub model by 'revision' (a commit), and only a hub model."
            )
        if entry.prompt not in ("plain", "chat"):
            raise Complaint(f"models.{name}.prompt should be 'plain' or 'chat', got '{entry.prompt}'.")
        if entry.parameters is not None and entry.parameters <= 0:
            raise Complaint(
                f"models.{name}.parameters should be above 0, got {entry.parameters}; correct it."
            )
        if entry.dtype not in (None, "float32", "bfloat16"):
            raise Complaint(f"models.{name}.dtype should be float32 or bfloat16, got '{entry.dtype}'.")
    for name, entry in settings.tuned.items():
        look_up(settings.family, entry.base, f"the family members that tuned.{name}.base can name")


def _check_pairs(settings: Settings) -> None:
    for name, pair in settings.pairs.items():
        for role, model in pair.members().items():
            look_up(settings.models, model, f"the models that pairs.{name}.{role} can name")
        if pair.large in (pair.small, pair.tuned):
            raise Complaint(
                f"pairs.{name} names '{pair.large}' twice; a pair is a small and another, large model."
            )
        modes = {settings.models[m].prompt for m in pair.members().values()}
        if len(modes) > 1:
            raise Complaint(f"pairs.{name} mixes plain and chat prompts; give its models the same 'prompt'.")


def _check_dump(settings: Settings) -> None:
    dump, compute = settings.dump, settings.compute
    if not 2 <= dump.k_min <= dump.k_max or dump.block < 1 or dump.tail < 0:
        raise Complaint(
            "dump should have 2 <= k_min <= k_max, block >= 1 and tail >= 0 (two ids make a margin)."
        )
    for name, method in settings.methods.items():
        alpha = method.parameters.get("alpha", 1.0)
        if method.rule != "proxy" and dump.depth <= -math.log(alpha):
            raise Complaint(
                f"dump.depth {dump.depth} should exceed -ln alpha = {-math.log(alpha):.3f} of methods.{name}."
            )
    if compute.device not in ("auto", "cpu", "cuda") or compute.dtype not in ("auto", "float32", "bfloat16"):
        raise Complaint(
            "compute.device should be auto, cpu or cuda and compute.dtype auto, float32 or bfloat16."
        )
    if compute.rows < 1 or compute.read_tokens < 1 or settings.report.prompts < 1:
        raise Complaint("compute.rows, compute.read_tokens and report.prompts should be at least 1.")
