"""params.yaml read in one place: frozen dataclasses, and every complaint about a setting."""

import difflib
import math
import types
import typing
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path

import yaml


class Complaint(Exception):
    """Something a person can mend, said in one sentence: the thing, the expected, the got, the remedy."""


# What each rule of fusion may be told, with its defaults (design: section 2 of the README).
RULE_DEFAULTS = {
    "oracle": {},
    "speculative": {},
    "li2022": {"alpha": 0.1, "tau": 0.5},
    "obrien2023": {"alpha": 0.1, "beta": 0.5},
    "average": {"alpha": 0.1, "beta": 0.5},
    "proxy": {"alpha": 1.0},
}
ROUTER_NAMES = ("always", "never", "threshold", "margin", "entropy", "random", "perfect")
SCORED_ROUTERS = ("threshold", "margin", "entropy")  # those that compare a number with a threshold
TASK_NAMES = ("arith", "gsm8k")


@dataclass(frozen=True, kw_only=True)
class Dataset:
    task: str
    """Name of the benchmark, a key of `fsgen.benchmarks.TASKS`."""
    max_new_tokens: int
    """Longest text a model may write, in tokens."""
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
class Method:
    rule: str
    parameters: dict[str, float]


@dataclass(frozen=True, kw_only=True)
class Router:
    rule: str
    at: float | None = None
    """Threshold of a policy that names no budget, in the score's own unit."""


@dataclass(frozen=True, kw_only=True)
class Policy:
    """`<method>+<router>[@<budget percent>]`, or `<method>@K` for the speculative rule."""

    name: str
    method: str
    router: str | None = None
    budget: float | None = None
    """Target call ratio, as a share."""
    draft: int | None = None
    """Tokens drafted a round; set for the speculative rule alone."""


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
        return _look_up(getattr(self, kind), name, f"{kind} of params.yaml")


def load(path: str | Path = "params.yaml") -> Settings:
    """Settings of a params file, validated as a whole.

    Raises Complaint, one sentence, on the first thing that does not hold; no model and no data is
    opened for that, only the existence of local files is looked at.
    """
    settings = _parse(_read_yaml(Path(path)))
    for check in (_check_names, _check_datasets, _check_models, _check_pairs, _check_dump):
        check(settings)
    return settings


def _read_yaml(path: Path) -> dict:
    if not path.is_file():
        raise Complaint(f"There is no params file at {path}; run from the project's folder.")
    try:
        raw = yaml.safe_load(path.read_text())
    except yaml.YAMLError as error:
        where = f" (line {error.problem_mark.line + 1})" if getattr(error, "problem_mark", None) else ""
        raise Complaint(f"{path}{where} is not valid YAML; mend its syntax.") from error
    if not isinstance(raw, dict):
        raise Complaint(f"{path} should hold a mapping of settings, got {type(raw).__name__}.")
    return raw


def _parse(raw: dict) -> Settings:
    raw = dict(raw)
    methods = _method_table(_mapping(raw.pop("methods", None), "methods"))
    routers = {
        name: _build(Router, {"rule": name} | _mapping(entry or {}, f"routers.{name}"), f"routers.{name}")
        for name, entry in _mapping(raw.pop("routers", None), "routers").items()
    }
    policies = _policy_table(raw.pop("policies", None), methods, routers)
    tables = {"datasets": Dataset, "models": Model, "pairs": Pair, "family": Member, "tuned": Tuned}
    built: dict[str, typing.Any] = {}
    for section, cls in tables.items():
        entries = _mapping(raw.pop(section, {}), section)
        built[section] = {n: _build(cls, e, f"{section}.{n}") for n, e in entries.items()}
    for section, cls in {"dump": Dump, "compute": Compute, "curriculum": Curriculum}.items():
        if section in raw:
            built[section] = _build(cls, raw.pop(section), section)
    return _build(
        Settings, raw | built | {"methods": methods, "routers": routers, "policies": policies}, "params.yaml"
    )


def _mapping(value: object, where: str) -> dict:
    if not isinstance(value, dict):
        raise Complaint(f"{where} should be a mapping of names to settings, got {value!r}.")
    return value


def _build(cls: type, raw: object, where: str) -> typing.Any:
    """An instance of `cls` from a mapping whose keys and types are exactly its fields'."""
    raw = _mapping(raw, where)
    hints = typing.get_type_hints(cls)
    for key in raw:
        _look_up(hints, key, f"the keys of {where}")
    missing = [
        f.name
        for f in fields(cls)
        if f.name not in raw and f.default is MISSING and f.default_factory is MISSING
    ]
    if missing:
        raise Complaint(f"{where} lacks the key '{missing[0]}'; add it.")
    return cls(**{key: _typed(value, hints[key], f"{where}.{key}") for key, value in raw.items()})


def _typed(value: object, hint: typing.Any, where: str) -> typing.Any:
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
    raise Complaint(f"{where} should be {names}, got {value!r}; write it as such (floats as 1.0e-5).")


def _look_up(table: typing.Mapping, name: object, where: str) -> typing.Any:
    if name in table:
        return table[name]
    near = difflib.get_close_matches(str(name), [str(key) for key in table], n=1)
    hint = f"did you mean '{near[0]}'" if near else f"known are {', '.join(map(str, table)) or 'none'}"
    raise Complaint(f"'{name}' is not among {where}; {hint}?")


def _method_table(raw: dict) -> dict[str, Method]:
    methods = {}
    for name, entry in raw.items():
        entry = dict(_mapping(entry, f"methods.{name}"))
        rule = entry.pop("rule", name)
        defaults = _look_up(RULE_DEFAULTS, rule, f"the rules that methods.{name} can name")
        for key, value in entry.items():
            _look_up(defaults, key, f"the keys of methods.{name} (rule {rule})")
            entry[key] = _typed(value, float, f"methods.{name}.{key}")
        methods[name] = Method(rule=rule, parameters=defaults | entry)
        _check_method(name, methods[name])
    return methods


def _check_method(name: str, method: Method) -> None:
    alpha, tau = method.parameters.get("alpha", 1.0), method.parameters.get("tau", 1.0)
    if method.rule == "proxy":
        if alpha < 0:
            raise Complaint(
                f"methods.{name}.alpha should be at least 0, got {alpha}; proxy adds, it does not take."
            )
    elif not 0 < alpha <= 1:
        raise Complaint(
            f"methods.{name}.alpha should lie in (0, 1], got {alpha}; it is a share of the top probability."
        )
    if tau <= 0:
        raise Complaint(f"methods.{name}.tau should be above 0, got {tau}; it is a temperature.")


def _policy_table(raw: object, methods: dict, routers: dict) -> tuple[Policy, ...]:
    if not isinstance(raw, list):
        raise Complaint(f"policies should be a list such as [oracle+entropy@20], got {raw!r}.")
    named = {str(entry): parse_policy(str(entry), methods, routers) for entry in raw}
    for method, entry in methods.items():  # the text of +always is what CoF is counted on
        name = f"{method}+always"
        if entry.rule != "speculative" and name not in named:
            named[name] = parse_policy(name, methods, routers | {"always": Router(rule="always")})
    return tuple(named[name] for name in sorted(named))


def parse_policy(text: str, methods: typing.Mapping, routers: typing.Mapping) -> Policy:
    """The policy that `text` names; Complaint where method, router, budget or K cannot be."""
    head, _, amount = text.partition("@")
    method, _, router = head.partition("+")
    rule = _look_up(methods, method, f"the methods that policy '{text}' can name").rule
    if rule == "speculative":
        if router or not amount.isdigit() or int(amount) < 1:
            raise Complaint(
                f"Policy '{text}' should read '{method}@K' with K >= 1: drafting takes no router."
            )
        return Policy(name=text, method=method, draft=int(amount))
    entry = _look_up(routers, router, f"the routers that policy '{text}' can name")
    budget = _budget(text, amount) if amount else None
    if entry.rule in ("always", "never") and budget is not None:
        raise Complaint(f"Policy '{text}' gives a budget to '{router}', which has none; drop '@{amount}'.")
    if budget is None and (entry.rule == "random" or (entry.rule in SCORED_ROUTERS and entry.at is None)):
        raise Complaint(
            f"Policy '{text}' needs a budget such as '@20', or a threshold 'routers.{router}.at'."
        )
    return Policy(name=text, method=method, router=router, budget=budget)


def _budget(text: str, amount: str) -> float:
    try:
        percent = float(amount)
    except ValueError:
        percent = math.nan
    if not 0 < percent < 100:
        raise Complaint(
            f"Policy '{text}' should give its budget in percent between 0 and 100, got '{amount}'."
        )
    return percent / 100


def _check_names(settings: Settings) -> None:
    """DVC reads a dot as a step into a mapping, and names become folders."""
    for section in ("datasets", "models", "pairs", "methods", "routers", "family", "tuned"):
        for name in getattr(settings, section):
            if not isinstance(name, str) or not name or set(name) & set("./@+ "):
                raise Complaint(
                    f"{section} holds the name {name!r}; use a word without dot, slash, '@', '+' or space."
                )
    for name, router in settings.routers.items():
        _look_up(dict.fromkeys(ROUTER_NAMES), router.rule, f"the rules that routers.{name} can name")
        if router.at is not None and router.rule not in SCORED_ROUTERS:
            raise Complaint(f"routers.{name}.at has no meaning for the rule '{router.rule}'; remove it.")


def _check_datasets(settings: Settings) -> None:
    for name, entry in settings.datasets.items():
        _look_up(dict.fromkeys(TASK_NAMES), entry.task, f"the tasks that datasets.{name} can name")
        if entry.path is not None and not Path(entry.path).exists():
            raise Complaint(
                f"datasets.{name}.path: there is nothing at '{entry.path}'; correct the path or fetch the data."
            )
        if entry.max_new_tokens < 1 or entry.shots < 0 or (entry.limit is not None and entry.limit < 1):
            raise Complaint(
                f"datasets.{name} should have max_new_tokens and limit above 0 and shots at least 0."
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
            _look_up(known, entry.family, f"the family members that models.{name} can name")
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
        if entry.dtype not in (None, "float32", "bfloat16"):
            raise Complaint(f"models.{name}.dtype should be float32 or bfloat16, got '{entry.dtype}'.")
    for name, entry in settings.tuned.items():
        _look_up(settings.family, entry.base, f"the family members that tuned.{name}.base can name")


def _check_pairs(settings: Settings) -> None:
    for name, pair in settings.pairs.items():
        for role, model in pair.members().items():
            _look_up(settings.models, model, f"the models that pairs.{name}.{role} can name")
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
    if compute.rows < 1 or compute.read_tokens < 1:
        raise Complaint("compute.rows and compute.read_tokens should be at least 1.")
