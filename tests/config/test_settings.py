"""params.yaml: what is read, what is refused, and that every refusal is one sentence with a remedy."""

import copy
from pathlib import Path

import pytest
import yaml

from fsgen.config import validation
from fsgen.config.load import load_settings
from fsgen.config.parsing import read_yaml
from fsgen.config.policies import Policy, parse_policy
from fsgen.config.schema import Settings
from fsgen.errors import UserError
from tests.conftest import PARAMS

ROOT = Path(__file__).parents[2]


@pytest.fixture
def params(tiny_checkpoints, tmp_path, monkeypatch) -> dict:
    """A valid params file as a mapping, in a folder where its checkpoints are."""
    monkeypatch.chdir(tmp_path)
    Path("checkpoints").symlink_to(tiny_checkpoints)
    return copy.deepcopy(PARAMS)


def load(params: dict) -> Settings:
    Path("params.yaml").write_text(yaml.safe_dump(params))
    return load_settings()


def change(params: dict, path: str, value: object) -> None:
    *parents, last = path.split("/")
    for key in parents:
        params = params[key]
    params[last] = value


def test_a_valid_file_becomes_frozen_settings(params):
    """Sections keep their names, rules their defaults, integers may stand for floats."""
    params["methods"]["contrastive"] = {"rule": "li2022", "tau": 1}

    loaded = load(params)

    assert loaded.methods["contrastive"].parameters == {"alpha": 0.1, "tau": 1.0}
    assert loaded.pairs["duo"].roles() == {"small": "small", "tuned": "tuned", "large": "large"}
    with pytest.raises(AttributeError):
        loaded.seed = 8


def test_every_method_is_run_with_always_whether_listed_or_not(params):
    """CoF of contrastive and proxy is counted on the text of +always, so no pair goes without it."""
    params["policies"] = ["oracle+never"]

    names = {policy.name for policy in load(params).policies}

    assert names == {"oracle+never"} | {f"{m}+always" for m in PARAMS["methods"] if m != "speculative"}


def test_a_pair_without_a_tuned_model_runs_no_proxy(params):
    """Its tuned model is written as the small one."""
    params["pairs"]["duo"]["tuned"] = "small"

    loaded = load(params)

    assert "proxy" not in loaded.methods_of("duo")
    assert all(policy.method != "proxy" for policy in loaded.policies_of("duo"))
    assert list(loaded.pairs["duo"].roles()) == ["small", "large"]


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("sead", 1, "'sead' is not among the keys of params.yaml; did you mean 'seed'"),
        ("pairs/duo/large", "larg", "'larg' is not among the models that pairs.duo.large can name"),
        ("pairs/duo/large", "small", "pairs.duo names 'small' twice"),
        ("models/large/prompt_format", "chat", "pairs.duo mixes plain and chat prompts"),
        ("models/large/prompt_format", "loud", "should be 'plain' or 'chat', got 'loud'"),
        ("models/large/path", "nowhere", "'nowhere' is no checkpoint folder"),
        ("models/large/hub", "org/model", "models.large should name one of hub, path, embedded"),
        ("models/large/revision", "abc", "should pin a hub model by 'revision'"),
        ("models/large/dtype", "int4", "should be float32 or bfloat16, got 'int4'"),
        ("models/qwen3-0.6b", {"path": "checkpoints/small", "prompt_format": "plain"}, "use letters, digits"),
        ("models/other", {"embedded": "nobody", "prompt_format": "plain"}, "'nobody' is not among"),
        ("datasets/toy/task", "gsm9k", "that datasets.toy can name; did you mean 'gsm8k'"),
        ("datasets/toy/path", "nowhere.jsonl", "datasets.toy.path: there is nothing at 'nowhere.jsonl'"),
        ("datasets/toy/calibration_share", 1.0, "should be a share between 0 and 1, got 1.0"),
        ("datasets/toy/max_new_tokens", 0, "should have max_new_tokens and limit above 0"),
        ("datasets/toy/max_new_tokens", "many", "datasets.toy.max_new_tokens should be int, got 'many'"),
        ("datasets/toy/limit", True, "datasets.toy.limit should be int or nothing, got True"),
        ("methods/contrastive/alpha", 0, "methods.contrastive.alpha should lie in (0, 1], got 0"),
        ("methods/contrastive/tau", -1, "methods.contrastive.tau should be above 0"),
        ("methods/contrastive/beta", 1.0, "the keys of methods.contrastive (rule li2022)"),
        ("methods/proxy/alpha", -1, "methods.proxy.alpha should be at least 0"),
        ("methods/mine", {"rule": "sum"}, "'sum' is not among the rules that methods.mine can name"),
        ("routers/mine", {}, "'mine' is not among the rules that routers.mine can name"),
        ("routers/always", {"rule": "entropy", "threshold": 1.0}, "should be the rule of that name"),
        ("seed", -1, "seed should be at least 0, got -1"),
        ("datasets/scaling", PARAMS["datasets"]["toy"], "'scaling', whose metrics file is taken"),
        ("datasets/o'brien", PARAMS["datasets"]["toy"], "use letters, digits"),
        ("methods/mine", {"rule": ["oracle"]}, "methods.mine.rule should be str, got ['oracle']"),
        ("routers/random", {"threshold": 0.5}, "routers.random.threshold has no meaning"),
        ("policies", ["oracle"], "'' is not among the routers that policy 'oracle' can name"),
        ("policies", ["oracel+always"], "the methods that policy 'oracel+always' can name"),
        ("policies", ["oracle+entropy"], "Policy 'oracle+entropy' needs a budget such as '@20'"),
        ("policies", ["oracle+random"], "Policy 'oracle+random' needs a budget"),
        ("policies", ["oracle+always@20"], "gives a budget to 'always', which has none"),
        ("policies", ["oracle+entropy@120"], "in percent between 0 and 100, got '120'"),
        ("policies", ["oracle+entropy@some"], "in percent between 0 and 100, got 'some'"),
        ("policies", ["speculative+entropy@20"], "should read 'speculative@K'"),
        ("policies", ["speculative@0"], "should read 'speculative@K'"),
        ("policies", "oracle+always", "policies should be a list"),
        ("dump/min_top_k", 1, "2 <= min_top_k <= max_top_k"),
        ("dump/nats_below_top", 2.0, "dump.nats_below_top 2.0 should exceed -ln alpha = 2.303"),
        ("dump/nats_below_top", "1e-5", "should be float, got '1e-5'; write it with a dot"),
        ("compute/device", "gpu", "compute.device should be auto, cpu or cuda"),
        ("compute/batch_size", 0, "and report.explorer_prompts should be at least 1"),
        ("datasets/toy/task", "mbpp", "set 'allow_code_execution: true' in params.yaml, or give 'fsgen run'"),
        ("datasets", {}, "one entry under 'datasets', got none; add one such as 'gsm8k: {task: gsm8k"),
        ("models", None, "one entry under 'models', got none; add one such as 'tiny: {path"),
        ("methods", {}, "one entry under 'methods', got none; add one such as 'oracle: {rule: oracle}'"),
        ("sandbox", "none", "sandbox should be strict or weak, got 'none'"),
        ("allow_code_execution", "yes", "allow_code_execution should be bool, got 'yes'"),
        ("pairs", [], "pairs should be a mapping of names to settings, got []"),
    ],
)  # fmt: skip
def test_a_wrong_setting_is_one_sentence_that_names_it(params, path, value, message):
    """The thing, what was expected, what was got, the remedy; never a traceback, never two lines."""
    change(params, path, value)

    with pytest.raises(UserError) as caught:
        load(params)

    sentence = str(caught.value)
    assert message in sentence
    assert "\n" not in sentence
    assert sentence[-1] in ".?"


def test_a_missing_key_and_a_broken_file_are_named(params):
    """Absent and wrong are distinguished."""
    del params["seed"]
    with pytest.raises(UserError, match=r"params.yaml lacks the key 'seed'; add it\."):
        load(params)

    Path("params.yaml").write_text("seed: [1\n")
    with pytest.raises(UserError, match=r"\(line 2\) is not valid YAML"):
        load_settings()

    with pytest.raises(UserError, match="There is no params file at elsewhere"):
        load_settings("elsewhere.yaml")


def test_models_may_be_run_without_any_pair(params):
    """What they write alone needs none."""
    del params["pairs"]
    assert load(params).pairs == {}


@pytest.mark.parametrize("section", ["datasets", "models", "methods"])
def test_a_missing_section_is_told_from_a_misspelt_one(params, section):
    """The first needs an entry, the second its name."""
    entries = params.pop(section)
    with pytest.raises(UserError, match=f"at least one entry under '{section}', got none; add one such as"):
        load(params)
    with pytest.raises(UserError, match=f"not among the keys of params.yaml; did you mean '{section}'"):
        load(params | {section[:-1]: entries})


@pytest.mark.parametrize(
    ("text", "key", "first", "again"),
    [
        ("seed: 1\npairs: {}\nseed: 2\n", "seed", 1, 3),
        ("datasets:\n  a: {task: arith}\nmodels: {}\ndatasets:\n  b: {task: arith}\n", "datasets", 1, 4),
        ("datasets:\n  a: {task: arith}\n  a: {task: arith}\n", "a", 2, 3),
        ("datasets: {a: {task: arith,\n  task: bbh}}\n", "task", 1, 2),
    ],
)
def test_a_key_that_stands_twice_is_refused(params, text, key, first, again):
    """YAML's last one would win without a word: what was appended would replace what was there."""
    Path("params.yaml").write_text(text)
    message = f"got '{key}' on line {first} and again on line {again}; merge the two"
    with pytest.raises(UserError, match=f"^params.yaml should hold every key of a mapping once, {message}"):
        load_settings()


def test_a_key_that_a_merge_brings_along_stands_once(params):
    """YAML's own way of having a default is no duplicate."""
    Path("plan.yaml").write_text("a: &a {x: 1, y: 2}\nb:\n  <<: *a\n  x: 3\n")
    assert read_yaml(Path("plan.yaml"))["b"] == {"x": 3, "y": 2}


def test_some_method_has_to_be_one_that_every_pair_can_roll_out(params):
    """Drafting is arithmetic on another method's text, and not every pair has a tuned model."""
    params |= {"methods": {"speculative": {}, "proxy": {}}, "policies": ["speculative@3"]}

    with pytest.raises(UserError, match="methods should hold one with a rule that every pair can roll out"):
        load(params)


def test_a_policy_reads_as_method_router_and_budget(params):
    """The name is the key under which results stand; the budget is a share."""
    loaded = load(params)

    assert parse_policy("proxy+entropy@12.5", loaded.methods, loaded.routers) == Policy(
        name="proxy+entropy@12.5", method="proxy", router="entropy", budget=0.125
    )
    assert parse_policy("speculative@4", loaded.methods, loaded.routers).draft == 4


@pytest.mark.parametrize("path", [ROOT / "params.yaml", *ROOT.glob("profiles/*.yaml")], ids=lambda p: p.stem)
def test_shipped_files_are_well_formed(path, monkeypatch):
    """The default and every profile parse; their local paths are the user's to fill."""
    kept = tuple(check for check in validation.CHECKS if check is not validation.check_models)
    monkeypatch.setattr(validation, "CHECKS", kept)
    monkeypatch.setattr(Path, "exists", lambda self: True)

    assert load_settings(path).pairs
