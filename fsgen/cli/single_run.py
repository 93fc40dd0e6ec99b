"""One combination without editing params.yaml: two models or three, a dataset, a method, a router.

It takes the place of FS-GEN's single script. The functions that the stages call run in this process, in a
folder under runs/ whose name is a digest of the request, so repeating a request continues a stopped run.
"""

import contextlib
import re
from dataclasses import dataclass
from pathlib import Path

import yaml

from fsgen.analysis import catalogue, evaluate
from fsgen.collaboration import fuse, route
from fsgen.config.load import load_settings
from fsgen.config.parsing import read_yaml
from fsgen.config.registry import ROUTERS, RULES, TASKS, resolve
from fsgen.config.schema import Settings
from fsgen.decoding import dump_solo, dump_teacher_forced
from fsgen.decoding.rollout import rollout
from fsgen.errors import UserError, lookup_or_suggest
from fsgen.execution import console
from fsgen.models import description, vocabulary
from fsgen.tables import files, parquet
from fsgen.tasks import grade, prompts

RUNS = Path("runs")
PARAMS = Path("params.yaml")
DEFAULTS = {  # in a folder without params.yaml
    "seed": 20240618,
    "dump": {"nats_below_top": 3.0, "min_top_k": 8, "max_top_k": 64, "prompts_per_shard": 64},
    "compute": {"device": "auto", "dtype": "auto", "batch_size": 32, "max_batch_tokens": 8192},
    "report": {"explorer_prompts": 8},
    "sandbox": "strict",
    "allow_code_execution": False,
}


@dataclass(frozen=True, kw_only=True)
class RunRequest:
    """Which models write what, and how."""

    large: str
    """A hub id, `<id>@<commit>`, or a checkpoint's folder; so are `small` and `tuned`."""
    small: str
    tuned: str | None = None
    dataset: str
    """A dataset or task that params.yaml names, or a task with its hub data."""
    data: str | None = None
    """Local data of the task, instead of the hub's."""
    method: str = "oracle"
    """A method of params.yaml or a rule; `speculative@K` takes no router."""
    router: str | None = None
    """With its budget: entropy@20; `always` by default."""
    limit: int = 100
    max_new_tokens: int = 256
    prompt: str = "plain"
    """Prompt format: plain or chat."""
    allow_code_execution: bool = False

    def sources(self) -> dict[str, str]:
        """Role to hub id or folder, `tuned` only where one is given."""
        sources = {"small": self.small, "tuned": self.tuned, "large": self.large}
        return {role: source for role, source in sources.items() if source}


def run(request: RunRequest) -> Path:
    """Run every stage for this combination, in runs/<digest>/; returns that folder.

    Raises UserError where the combination cannot be: see `params_of` and `fsgen.config.load`.
    """
    params = params_of(request)
    folder = RUNS / parquet.fingerprint(params)
    _prepare(folder, params)
    with contextlib.chdir(folder):
        run_stages(load_settings())
    console.done(f"{folder}: the tables of this run; ask them with 'cd {folder} && fsgen sql ...'")
    return folder


def _prepare(folder: Path, params: dict) -> None:
    """Write the folder's params.yaml, and link its shards to those that all runs and the pipeline share."""
    shards = (files.SCRATCH / "shards").resolve()
    for needed in (folder / files.SCRATCH, shards):
        needed.mkdir(parents=True, exist_ok=True)
    (folder / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False))
    link = folder / files.SCRATCH / "shards"
    if not link.is_symlink():
        link.symlink_to(shards)


def params_of(request: RunRequest) -> dict:
    """The content of a params file for the request; what it leaves open comes from the params.yaml here.

    Raises UserError where a model is neither a folder nor a hub id, and where dataset or method are
    neither named by the params.yaml here nor registered.
    """
    present = read_yaml(PARAMS) if PARAMS.is_file() else {}
    base = DEFAULTS | {key: present[key] for key in DEFAULTS if key in present}
    base["allow_code_execution"] |= request.allow_code_execution
    pair, models = _pair_and_models(request)
    method, policy = _method_and_policy(request, present.get("methods", {}))
    routers = {name: entry for name, entry in present.get("routers", {}).items() if entry}
    return base | {
        "datasets": {request.dataset: _dataset(request, present.get("datasets", {}))},
        "models": models,
        "pairs": {f"{pair['small']}-{pair['large']}": pair},
        "methods": {"oracle": {"rule": "oracle"}} | method,
        "routers": _default_routers() | routers,
        "policies": [policy],
    }


def params_to_merge(params: dict) -> dict:
    """The sections of `params_of` that params.yaml needs for the combination to stay."""
    sections = {key: params[key] for key in ("datasets", "models", "pairs", "methods", "policies")}
    router = params["policies"][0].partition("+")[2].partition("@")[0]
    sections["routers"] = {name: entry for name, entry in params["routers"].items() if name == router}
    return sections


def _pair_and_models(request: RunRequest) -> tuple[dict[str, str], dict[str, dict]]:
    """The pair, role to model name, and the entry of every model by name."""
    sources = {"small": request.small, "tuned": request.tuned or request.small, "large": request.large}
    names = _name_sources(sources)
    models = {name: _locate(source) | {"prompt_format": request.prompt} for source, name in names.items()}
    return {role: names[source] for role, source in sources.items()}, models


def _name_sources(sources: dict[str, str]) -> dict[str, str]:
    """Source to a name that params.yaml may hold; the role keeps equal names of two sources apart."""
    names: dict[str, str] = {}
    for role, source in sources.items():
        last_part = source.partition("@")[0].rstrip("/").rpartition("/")[2]
        name = re.sub(r"[^A-Za-z0-9_-]+", "_", last_part) or role
        is_taken = name in names.values() and source not in names
        names.setdefault(source, f"{name}-{role}" if is_taken else name)
    return names


def _locate(source: str) -> dict:
    """Where a model lies, as params.yaml states it; a hub model without a commit gets the newest one."""
    if Path(source).is_dir():
        return {"path": str(Path(source).resolve())}
    hub, _, commit = source.partition("@")
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", hub):
        raise UserError(f"'{source}' is neither a folder nor a hub id such as Qwen/Qwen2.5-0.5B; correct it.")
    return {"hub": hub, "revision": commit or _newest_commit(hub)}


def _newest_commit(hub: str) -> str:
    from huggingface_hub import model_info

    try:
        return model_info(hub).sha
    except Exception as error:  # offline, gated, misspelled: the hub's client has no common base class
        raise UserError(
            f"'{hub}' could not be looked up on the hub ({type(error).__name__}); "
            f"go online, log in, name the commit as '{hub}@<commit>', or give a folder."
        ) from error


def _method_and_policy(request: RunRequest, present: dict) -> tuple[dict[str, dict], str]:
    """The method's entry by its name, and the policy; `present` are the methods of params.yaml."""
    name, _, draft = request.method.partition("@")
    entry = lookup_or_suggest({rule: {"rule": rule} for rule in RULES} | present, name, "the methods")
    if draft and request.router:
        raise UserError(f"'{request.method}' drafts, and takes no router; leave out '{request.router}'.")
    rule = resolve(RULES, entry.get("rule", name), f"the rules that methods.{name} can name")
    if not rule.requires <= request.sources().keys():
        raise UserError(f"The method '{name}' needs a tuned small model, got none; name one with --tuned.")
    return {name: entry}, request.method if draft else f"{name}+{request.router or 'always'}"


def _default_routers() -> dict[str, dict]:
    """Every router by its own name, with the threshold of FS-GEN's paper where it has one."""
    thresholds = {name: resolve(ROUTERS, name, "the routers").default_threshold for name in ROUTERS}
    return {
        name: {} if threshold is None else {"threshold": threshold} for name, threshold in thresholds.items()
    }


def _dataset(request: RunRequest, present: dict) -> dict:
    """The dataset's entry; `present` are the datasets of params.yaml."""
    tasks = {task: {"task": task, "max_new_tokens": request.max_new_tokens} for task in TASKS}
    entry = dict(lookup_or_suggest(tasks | present, request.dataset, "the datasets and tasks"))
    path = request.data or entry.get("path")
    return entry | {"limit": request.limit} | ({"path": str(Path(path).resolve())} if path else {})


def run_stages(settings: Settings) -> None:
    """Run the stages from `model` to `evaluate` for one pair and one dataset, in their order."""
    (pair,) = settings.pairs
    (dataset,) = settings.datasets
    for model in settings.models:
        description.write_description(settings, model)
        vocabulary.write_vocabulary(settings, model)
    catalogue.write_catalogue(settings)
    prompts.write_prompts(settings, dataset)
    for model in settings.models:
        dump_solo.dump_solo(settings, model)
    dump_teacher_forced.dump_large(settings, pair)
    dump_teacher_forced.dump_small(settings, pair)
    fuse.fuse_pair(settings, pair)
    route.route_pair(settings, pair)
    rollout.rollout(settings, pair)
    for model in settings.models:
        grade.grade_models(settings, model)
    grade.grade_pair(settings, pair)
    evaluate.evaluate(settings, dataset)
