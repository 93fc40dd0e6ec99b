"""The catalogue: rows in closed form, the same bytes every time, and views that wait for no rollout."""

from pathlib import Path

import pytest

from fsgen.analysis import catalogue
from fsgen.collaboration import fuse
from fsgen.config.policies import RouterConfig
from fsgen.decoding import dump_solo, dump_teacher_forced
from fsgen.models import description, vocabulary
from fsgen.tables import lake, parquet
from tests.conftest import PARAMS, write_params


def catalogued(name: str) -> list[dict]:
    return parquet.read(f"data/catalogue/{name}.parquet").to_dicts()


def test_models_have_their_sizes_and_shapes(tiny_world):
    """As the `model` stage counts them in the checkpoints: layers of 24 wide states over 34 ids."""
    catalogue.write_catalogue(tiny_world)

    weights = 24 * 24 * 4 + 3 * 24 * 48 + 2 * 24  # attention, feed-forward, norms of a layer
    layers, head = 2 * weights + 24, 34 * 24
    expected = {
        "prompt_format": "plain",
        "source": "path",
        "total_parameters": layers + 2 * head,
        "non_embedding_parameters": layers,
        "head_parameters": head,
        "layers": 2,
        "width": 24,
        "context": 128,
    }
    assert catalogued("models") == [{"model": name} | expected for name in sorted(PARAMS["models"])]


def test_pairs_have_a_row_a_dataset_and_role(tiny_world, monkeypatch):
    """`tuned` only where there is one; the ratio is that of parameters outside vocabulary matrices."""
    params = PARAMS | {
        "datasets": dict.fromkeys(("one", "two"), PARAMS["datasets"]["toy"]),
        "pairs": PARAMS["pairs"] | {"plain": {"small": "small", "tuned": "small", "large": "large"}},
    }
    sizes = {"small": 1000, "tuned": 1000, "large": 7000}
    reported = {
        name: {
            "parameters": {"total": size + 90, "non_embedding": size, "head": 40},
            "shape": {"layers": 1, "width": 2, "context": 3},
        }
        for name, size in sizes.items()
    }
    monkeypatch.setattr(description, "read_description", reported.get)
    catalogue.write_catalogue(write_params(params))

    members = [("duo", role) for role in ("small", "tuned", "large")]
    members += [("plain", role) for role in ("small", "large")]
    assert catalogued("pairs") == [
        {
            "dataset": dataset,
            "pair": pair,
            "role": role,
            "model": role,
            "non_embedding_parameters": sizes[role],
            "total_parameters": sizes[role] + 90,
            "size_ratio": pytest.approx(7.0),
        }
        for dataset in ("one", "two")
        for pair, role in members
    ]


def test_policies_are_taken_apart(tiny_world):
    """Method, router, their rules, budget, draft length; a pair has those that it can run."""
    params = PARAMS | {
        "pairs": PARAMS["pairs"] | {"plain": {"small": "small", "tuned": "small", "large": "large"}},
        "methods": {"oracle": {}, "proxy": {}, "quick": {"rule": "speculative"}},
        "routers": {"unsure": {"rule": "entropy"}},
        "policies": ["oracle+unsure@20", "quick@3", "proxy+unsure@5"],
    }
    catalogue.write_catalogue(write_params(params))

    rows = {(row["pair"], row["policy"]): row for row in catalogued("policies")}
    names = {"oracle+always", "oracle+unsure@20", "proxy+always", "proxy+unsure@5", "quick@3"}
    assert {name for pair, name in rows if pair == "duo"} == names
    assert {name for pair, name in rows if pair == "plain"} == {n for n in names if "proxy" not in n}
    assert rows["duo", "oracle+unsure@20"] == {
        "pair": "duo",
        "method": "oracle",
        "router": "unsure",
        "policy": "oracle+unsure@20",
        "method_rule": "oracle",
        "router_rule": "entropy",
        "budget": 0.2,
        "draft_length": None,
    }
    assert rows["duo", "quick@3"] == {
        "pair": "duo",
        "method": "quick",
        "router": "drafting",
        "policy": "quick@3",
        "method_rule": "speculative",
        "router_rule": None,
        "budget": None,
        "draft_length": 3,
    }
    assert rows["plain", "oracle+always"]["router_rule"] == "always"


def test_a_second_run_leaves_the_same_bytes(tiny_world):
    """Whatever was there before."""
    written = []
    for _ in range(2):
        catalogue.write_catalogue(tiny_world)
        files = sorted(Path("data/catalogue").iterdir())
        written.append({path.name: path.read_bytes() for path in files})

    assert written[0] == written[1]
    assert list(written[0]) == ["models.parquet", "pairs.parquet", "policies.parquet"]


def test_both_sides_can_be_asked_before_a_rollout_exists(tiny_world):
    """Teacher forcing is all that `token_pairs` needs besides the catalogue and the vocabularies."""
    catalogue.write_catalogue(tiny_world)
    for name in tiny_world.models:
        vocabulary.write_vocabulary(tiny_world, name)
        dump_solo.dump_solo(tiny_world, name)
    for stage in (dump_teacher_forced.dump_large, dump_teacher_forced.dump_small, fuse.fuse_pair):
        stage(tiny_world, "duo")

    sides = lake.query(
        "select writer, count(*) as tokens, avg(mismatch::int) as m from token_pairs group by all"
    )
    positions = lake.query("select count(*) from fused_tokens where method = 'oracle'").item()

    assert not Path("data/rollouts").exists()
    assert set(sides["writer"]) == {"small", "large"}
    assert sides["tokens"].sum() == positions
    assert sides["m"].is_between(0, 1, closed="none").all()


def test_a_router_need_not_be_named_to_always_call():
    """`+always` runs for every method."""
    rows = {"always": RouterConfig(rule="never")}
    policy = catalogue.Policy(name="oracle+always", method="oracle", router="always")

    assert catalogue._router_rule(policy, {}) == "always"
    assert catalogue._router_rule(policy, rows) == "never"
