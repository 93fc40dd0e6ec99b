"""One combination without editing params.yaml: two models or three, a dataset, a method, a router.

What FS-GEN's single script did. The functions that the stages call run in this process, in a folder under
runs/ that is named by everything asked, so that asking again goes on where a killed run stood.
"""

import contextlib
import re
from dataclasses import dataclass
from pathlib import Path

import yaml

from fsgen.analysis import evaluate
from fsgen.collaboration import fuse, route
from fsgen.config.load import load_settings
from fsgen.config.parsing import read_yaml
from fsgen.config.policies import ROUTER_NAMES, RULE_DEFAULTS
from fsgen.config.schema import Settings
from fsgen.config.validation import TASK_NAMES
from fsgen.decoding import dump_solo, dump_teacher_forced
from fsgen.decoding.rollout import rollout
from fsgen.errors import UserError, lookup_or_suggest
from fsgen.execution import console
from fsgen.models import description, vocabulary
from fsgen.tables import files, parquet
from fsgen.tasks import grade, prompts

RUNS = Path("runs")
DEFAULTS = {  # of a folder without params.yaml
    "seed": 20240618,
    "dump": {"depth": 3.0, "k_min": 8, "k_max": 64, "block": 64},
    "compute": {"device": "auto", "dtype": "auto", "rows": 32, "read_tokens": 8192},
    "report": {"prompts": 8},
    "sandbox": "strict",
    "allow_code_execution": False,
}
ROUTERS = {name: {} for name in ROUTER_NAMES} | {"threshold": {"at": 0.5}, "margin": {"at": 0.4}}


@dataclass(frozen=True, kw_only=True)
class RunRequest:
    """What is asked for."""

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
    """With its budget: entropy@20; `always` if nothing is said."""
    limit: int = 100
    max_new_tokens: int = 256
    prompt: str = "plain"
    """How models are asked: plain or chat."""
    allow_code_execution: bool = False


def run(wish: RunRequest) -> Path:
    """Every stage for this combination, in runs/<fingerprint>/; returns that folder.

    Raises Complaint where something asked for cannot be: see `params_of` and `fsgen.settings`.
    """
    params = params_of(wish)
    home = RUNS / parquet.fingerprint(params)
    shards = (files.SCRATCH / "shards").resolve()  # dumps are shared by all runs and the pipeline
    for folder in (home / files.SCRATCH, shards):
        folder.mkdir(parents=True, exist_ok=True)
    (home / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False))
    link = home / files.SCRATCH / "shards"
    if not link.is_symlink():
        link.symlink_to(shards)
    with contextlib.chdir(home):
        _run_stages(load_settings())
    console.done(f"{home}: the tables of this run; ask them with 'cd {home} && fsgen sql ...'")
    return home


def params_of(wish: RunRequest) -> dict:
    """The params file that the wish amounts to.

    Raises Complaint where a model is neither a folder nor a hub id, and where dataset or method are
    neither named by the params.yaml here nor known to the house.
    """
    here = read_yaml(Path("params.yaml")) if Path("params.yaml").is_file() else {}
    base = DEFAULTS | {key: here[key] for key in DEFAULTS if key in here}
    base["allow_code_execution"] |= wish.allow_code_execution
    pair, models = _models(wish)
    method, policy = _policy(wish, here.get("methods", {}))
    return base | {
        "datasets": {wish.dataset: _dataset(wish, here.get("datasets", {}))},
        "models": models,
        "pairs": {f"{pair['small']}-{pair['large']}": pair},
        "methods": {"oracle": {"rule": "oracle"}} | method,
        "routers": ROUTERS | {name: entry for name, entry in here.get("routers", {}).items() if entry},
        "policies": [policy],
    }


def _models(wish: RunRequest) -> tuple[dict[str, str], dict[str, dict]]:
    """The pair, and its models by name."""
    sources = {"small": wish.small, "tuned": wish.tuned or wish.small, "large": wish.large}
    names = _names(sources)
    models = {names[s]: _locate(s) | {"prompt": wish.prompt} for s in dict.fromkeys(sources.values())}
    return {role: names[source] for role, source in sources.items()}, models


def _policy(wish: RunRequest, known: dict) -> tuple[dict[str, dict], str]:
    """The method by its name, and the policy."""
    method, _, draft = wish.method.partition("@")
    own = lookup_or_suggest({rule: {"rule": rule} for rule in RULE_DEFAULTS} | known, method, "the methods")
    if draft and wish.router:
        raise UserError(f"'{wish.method}' drafts, and takes no router; leave out '{wish.router}'.")
    if own.get("rule", method) == "proxy" and not wish.tuned:
        raise UserError(f"The method '{method}' needs a tuned small model, got none; name one with --tuned.")
    return {method: own}, wish.method if draft else f"{method}+{wish.router or 'always'}"


def params_to_merge(params: dict) -> dict:
    """The sections of params.yaml that the combination needs to stay."""
    parts = {key: params[key] for key in ("datasets", "models", "pairs", "methods", "policies")}
    router = params["policies"][0].partition("+")[2].partition("@")[0]
    parts["routers"] = {name: entry for name, entry in params["routers"].items() if name == router}
    return parts


def _names(sources: dict[str, str]) -> dict[str, str]:
    """Source to a name that params.yaml may hold; the role sets equal ones apart."""
    found: dict[str, str] = {}
    for role, source in sources.items():
        last = source.partition("@")[0].rstrip("/").rpartition("/")[2]
        name = re.sub(r"[^A-Za-z0-9_-]+", "_", last) or role
        taken = name in found.values() and source not in found
        found.setdefault(source, f"{name}-{role}" if taken else name)
    return found


def _locate(source: str) -> dict:
    """Where a model lies, as params.yaml says it; a hub model is pinned to the commit of today."""
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
    except Exception as error:  # offline, gated, misspelt: the hub's client has no common base class
        raise UserError(
            f"'{hub}' could not be looked up on the hub ({type(error).__name__}); "
            f"go online, log in, name the commit as '{hub}@<commit>', or give a folder."
        ) from error


def _dataset(wish: RunRequest, known: dict) -> dict:
    tasks = {task: {"task": task, "max_new_tokens": wish.max_new_tokens} for task in TASK_NAMES}
    entry = dict(lookup_or_suggest(tasks | known, wish.dataset, "the datasets and tasks"))
    path = wish.data or entry.get("path")
    return entry | {"limit": wish.limit} | ({"path": str(Path(path).resolve())} if path else {})


def _run_stages(wanted: Settings) -> None:
    """The stages from `model` to `evaluate`, in their order."""
    (pair,) = wanted.pairs
    (dataset,) = wanted.datasets
    for name in wanted.models:
        description.write_description(wanted, name)
        vocabulary.write_vocabulary(wanted, name)
    prompts.write_prompts(wanted, dataset)
    for name in wanted.models:
        dump_solo.dump_solo(wanted, name)
    for stage in (
        dump_teacher_forced.dump_large,
        dump_teacher_forced.dump_small,
        fuse.fuse_pair,
        route.route_pair,
        rollout.rollout,
    ):
        stage(wanted, pair)
    for name in wanted.models:
        grade.grade_models(wanted, name)
    grade.grade_pair(wanted, pair)
    evaluate.evaluate(wanted, dataset)
