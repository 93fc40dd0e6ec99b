"""A changed params.yaml reruns what is new: policies whose texts are there are not rolled out again."""

import copy
import shutil
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from fsgen.collaboration import fuse, route
from fsgen.decoding import dump_rollouts
from fsgen.decoding.dump_teacher_forced import _digest_rows
from fsgen.decoding.rollout import prefix_tree, rollout
from fsgen.tables import files, parquet
from fsgen.tables.schemas.dumps import ROLLOUT_TOKENS
from fsgen.tasks import prompts
from tests.conftest import (
    PARAMS,
    assert_same,
    describe_all,
    family_world,
    random_world,
    run_pair,
    tables,
    write_params,
)

BEFORE = ["oracle+entropy@20", "oracle+margin", "contrastive+random@20", "proxy+never"]
ADDED = ["oracle+max_probability@30", "average+entropy@20"]


def params_of(policies, **changes):
    """PARAMS with these policies and changed sections."""
    params = copy.deepcopy(PARAMS) | {"policies": policies}
    for section, entries in changes.items():
        params[section] |= entries
    return params


@pytest.fixture
def grown(monkeypatch):
    """Which policies every tree ran, on how many prompts, in order."""
    seen = []
    run = prefix_tree.PrefixTree.run

    def noting(tree, pending, bar):
        seen.append(({run.name for run in tree.runs}, len(tree.prompts)))
        return run(tree, pending, bar)

    monkeypatch.setattr(prefix_tree.PrefixTree, "run", noting)
    return seen


@pytest.fixture
def pair(tiny_checkpoints, tmp_path, monkeypatch):
    """A project folder whose pair has run with the policies BEFORE; every method's +always runs too."""
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.chdir(home)
    random_world(tiny_checkpoints)
    loaded = write_params(params_of(BEFORE))
    describe_all(loaded)
    run_pair(loaded)
    return home


def rerun(params) -> None:
    """What DVC runs anew when policies or routers change."""
    loaded = write_params(params)
    route.route_pair(loaded, "duo")
    shutil.rmtree("data/rollouts")
    rollout.rollout(loaded, "duo")


def rollout_tables() -> dict[str, pl.DataFrame]:
    """All tables that the rollout left."""
    steps = {"steps": parquet.read("data/rollouts/duo/toy/steps-*.parquet")}
    return steps | {name: table for name, table in tables(Path.cwd()).items() if "rollouts" in name}


def assert_as_from_scratch(params) -> None:
    """The tables are those of a run that knows of nothing."""
    reused = rollout_tables()
    shutil.rmtree(files.SCRATCH)
    rerun(params)
    for name, table in rollout_tables().items():
        assert_same(reused[name], table, name)


def test_an_added_policy_alone_is_rolled(pair, grown):
    """One of a method that ran before, and one of a method of which only +always did."""
    rerun(params_of(BEFORE + ADDED))

    assert {name for names, _ in grown for name in names} == set(ADDED)
    assert_as_from_scratch(params_of(BEFORE + ADDED))


def test_a_changed_router_rolls_its_own_policies(pair, grown):
    """Another threshold of `margin` is another policy of the same name."""
    changed = params_of(BEFORE, routers={"margin": {"threshold": 0.2}})
    rerun(changed)

    assert {name for names, _ in grown for name in names} == {"oracle+margin"}
    assert_as_from_scratch(changed)


def test_a_changed_method_rolls_its_own_policies(pair, grown):
    """Its dumped texts and its rule are no other method's."""
    changed = params_of(BEFORE, methods={"contrastive": {"rule": "li2022", "tau": 0.9}})
    loaded = write_params(changed)
    fuse.fuse_pair(loaded, "duo")
    rerun(changed)

    assert {n for names, _ in grown for n in names} == {"contrastive+always", "contrastive+random@20"}


def test_fewer_policies_roll_none(pair, grown):
    """What goes leaves the others as they are."""
    rerun(params_of(BEFORE[1:]))

    assert grown == []
    assert_as_from_scratch(params_of(BEFORE[1:]))


def test_back_to_an_earlier_file_rolls_none(pair, grown):
    """Its shards are whole."""
    before = (pair / "data/rollouts/duo/toy/tokens-0000.parquet").read_bytes()
    rerun(params_of(BEFORE + ADDED))
    done = len(grown)
    rerun(params_of(BEFORE))

    assert len(grown) == done
    assert (pair / "data/rollouts/duo/toy/tokens-0000.parquet").read_bytes() == before


def test_more_prompts_roll_no_full_block_again(tiny_checkpoints, tmp_path, monkeypatch, grown):
    """Texts of prompts in other blocks are no part of a block's facts, as long as no threshold moves."""
    monkeypatch.chdir(tmp_path)
    family_world(tiny_checkpoints)
    counts = []
    for limit in (28, 40):
        arith = {"task": "arith", "limit": limit, "max_new_tokens": 20, "calibration_share": 0.3}
        fixed = [policy for policy in BEFORE if "@" not in policy]
        loaded = write_params(params_of(fixed, datasets={"toy": arith}))
        prompts.write_prompts(loaded, "toy")
        describe_all(loaded)
        grown.clear()
        run_pair(loaded)
        counts.append(sum(prompts for _, prompts in grown))
    tests = len(parquet.read("data/prompts/toy.parquet").filter(split="test"))
    full = counts[0] // PARAMS["dump"]["prompts_per_shard"] * PARAMS["dump"]["prompts_per_shard"]

    assert 0 < full < counts[0] < tests
    assert counts[1] == tests - full


def test_a_damaged_shard_lends_nothing(pair, grown):
    """Its policies roll out anew, and it is gone."""
    for path in Path(files.SCRATCH, "shards").glob("*/steps.parquet"):
        with path.open("r+b") as file:
            file.truncate(20)
    rerun(params_of(BEFORE + ADDED))

    assert set(BEFORE + ADDED) <= {name for names, _ in grown for name in names}
    assert_as_from_scratch(params_of(BEFORE + ADDED))


def test_a_closer_look_follows_what_counts_of_a_text(pair):
    """A task whose answers end elsewhere changes no token of a text, but which of its rows ratios count."""
    loaded = write_params(params_of(BEFORE))
    dump_rollouts.dump_rollouts(loaded, "duo")
    for path in Path("data/rollouts/duo/toy").glob("tokens-*.parquet"):
        parquet.write(path, parquet.read(path).with_columns(in_answer=~pl.col("in_answer")), ROLLOUT_TOKENS)
    dump_rollouts.dump_rollouts(loaded, "duo")

    key = ["policy", *parquet.KEY]
    rows = parquet.read("data/rollouts/duo/toy/tokens-*.parquet", [*key, "in_answer"])
    seen = parquet.read("data/rollout_logits/duo/toy/reads-*.parquet").explode("policies")
    both = seen.rename({"policies": "policy"}).join(rows, on=key, how="left", suffix="_written")
    assert len(both) > 0
    assert both["in_answer"].equals(both["in_answer_written"])


@pytest.mark.parametrize(("name", "values"), [("turn", [1, 2, 2]), ("pos", [0, 0, 1])])
def test_a_shard_of_reads_is_no_other_texts(name, values):
    """The same tokens cut into other texts or turns make another table."""
    rows = pl.DataFrame(
        {
            "turn": np.ones(3, np.int32),
            "pos": np.arange(3, dtype=np.int32),
            "token_id": np.array([5, 3, 5], np.int32),
            "top_ids": [[5, 1], [3], [5]],
            "in_answer": [True] * 3,
            "from_template": [False] * 3,
        },
        schema_overrides={"top_ids": pl.List(pl.Int32)},
    )
    other = rows.with_columns(pl.Series(name, values, dtype=pl.Int32))
    assert _digest_rows(rows) != _digest_rows(other)
