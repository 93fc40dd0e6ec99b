"""The pipeline says what the slow reference says: every method with every router, and drafting at every K."""

import functools
import shutil
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from fsgen.analysis import costs
from fsgen.collaboration import fuse, route, routers
from fsgen.collaboration.calibration import read_calibration
from fsgen.models import spec
from fsgen.tables import parquet
from tests.collaboration import conftest as reference

LONGEST = 64  # tokens of any text here, given ones included


def conversation(world, name: str) -> reference.Conversation:
    """The turns of a prompt."""
    bridges = [
        world.until.tokenizer(bridge)["input_ids"] for bridge in world.until.turn_separators.get(name, [])
    ]
    return reference.Conversation(world.until.stop_ids, world.limit, bridges)


def prompt_ids(world) -> dict[str, list[int]]:
    ids = spec.prompt_ids(world.loaded["large"], world.prompts, world.limit)
    return dict(zip(world.prompts["prompt_id"], ids, strict=True))


def texts_of(source: str, **where) -> dict[str, list[int]]:
    rows = parquet.read(source).filter(**where).sort("prompt_id", "pos")
    return dict(rows.group_by("prompt_id", maintain_order=True).agg("token_id").iter_rows())


def reference_texts(world, policy_name: str) -> dict[str, reference.ReferenceText]:
    """The reference's text of a policy for every test prompt."""
    settings = world.settings
    (policy,) = (p for p in settings.policies if p.name == policy_name)
    router = read_calibration("duo", "toy").routers[policy_name]
    method = settings.methods[policy.method]
    tests = set(world.prompts.filter(split="test")["prompt_id"])
    pos = np.arange(LONGEST)
    return {
        name: reference.write(
            world.loaded,
            method,
            router,
            ids,
            conversation(world, name),
            routers.position_uniforms(settings.seed, np.repeat(name, LONGEST), pos),
        )
        for name, ids in prompt_ids(world).items()
        if name in tests
    }


def test_a_model_alone_writes_what_the_reference_writes(world):
    """Batched, cached, left-padded decoding equals one full pass a step, and its scalars too."""
    for role, loaded in world.loaded.items():
        texts = texts_of(f"data/dumps/{role}/toy/tokens-*.parquet")

        for name, ids in prompt_ids(world).items():
            assert reference.write_alone(loaded, ids, conversation(world, name)) == texts[name]


def test_records_hold_the_full_distribution(world):
    """Lists, normaliser, entropy and minimum are those of a full pass in double precision."""
    loaded = world.loaded["large"]
    rows = parquet.read("data/dumps/large/toy/tokens-*.parquet").sort("prompt_id", "pos")
    ids, written = prompt_ids(world), texts_of("data/dumps/large/toy/tokens-*.parquet")
    dump = world.settings.dump

    for row in rows.sample(40, seed=1).iter_rows(named=True):
        logits = reference.next_logits(
            loaded, ids[row["prompt_id"]] + written[row["prompt_id"]][: row["pos"]]
        )
        ranked = sorted(enumerate(logits.double().tolist()), key=lambda pair: (-pair[1], pair[0]))
        near = [i for i, x in ranked if x >= ranked[0][1] - dump.nats_below_top]
        kept = max(dump.min_top_k, min(len(near), dump.max_top_k))
        p = torch_softmax(logits)

        assert [i for i, _ in ranked[:kept]] == row["top_ids"]
        assert np.allclose([x for _, x in ranked[:kept]], row["top_logits"], atol=1e-4)
        assert row["logsumexp"] == pytest.approx(np.log(np.exp(logits.double().numpy()).sum()), abs=1e-4)
        assert row["entropy"] == pytest.approx(-(p * np.log(p)).sum(), abs=1e-4)
        assert row["min_logit"] == pytest.approx(logits.min().item(), abs=1e-4)


def torch_softmax(logits) -> np.ndarray:
    weights = np.exp(logits.double().numpy())
    return weights / weights.sum()


@pytest.mark.parametrize("method", ["oracle", "contrastive", "contrastive_obrien", "average", "proxy"])
def test_every_router_writes_what_the_reference_writes(world, method):
    """Tokens, calls and mismatches of the tree equal one policy on one prompt without a cache."""
    rollout_rows = parquet.read("data/rollouts/duo/toy/tokens-*.parquet").sort("prompt_id", "pos")
    names = sorted({p.name for p in world.settings.policies if p.method == method})
    assert len(names) == (13 if method in ("oracle", "proxy") else 10)

    for policy in names:
        rows = rollout_rows.filter(policy=policy).group_by("prompt_id", maintain_order=True).agg(pl.all())
        texts = {row["prompt_id"]: row for row in rows.iter_rows(named=True)}
        expected = reference_texts(world, policy)
        assert expected.keys() == texts.keys()
        for name, text in expected.items():
            assert text.tokens == texts[name]["token_id"], (policy, name)
            assert text.from_template == texts[name]["from_template"]
            for column in ("default", "fused"):
                assert getattr(text, column) == chosen(texts[name], f"{column}_id")
            assert text.called == chosen(texts[name], "called")
            mismatches = sum(c != d for c, d in zip(text.fused, text.default, strict=True))
            assert mismatches == sum(chosen(texts[name], "mismatch"))


def chosen(row: dict, column: str) -> list:
    """A text's values where its tokens were not given; those are null elsewhere."""
    assert [x is None for x in row[column]] == row["from_template"]
    return [x for x in row[column] if x is not None]


@pytest.mark.parametrize("draft", [1, 3, 5])
def test_dumped_mismatches_give_the_rounds_of_a_real_draft_and_verify_loop(world, draft):
    """Accepted lengths from the dump equal those of drafting and verifying, round by round."""
    fused = parquet.read("data/fused/duo/toy/fused-*.parquet").filter(method="speculative", writer="large")
    large = texts_of("data/dumps/large/toy/tokens-*.parquet")

    for name, ids in prompt_ids(world).items():
        for _, rows in fused.filter(prompt_id=name, from_template=False).sort("pos").group_by("turn"):
            rows = rows.sort("pos")
            begin, end = rows["pos"].min(), rows["pos"].max() + 1
            rounds = costs.speculative_rounds(rows["mismatch"].to_numpy(), np.zeros(len(rows), int), draft)
            models = (world.loaded[role] for role in ("small", "large"))
            text, accepted = reference.speculate(
                *models, ids + large[name][:begin], draft, conversation(world, name)
            )

            assert text == large[name][begin:end]
            assert accepted == rounds.accepted_R.tolist()


def test_oracle_always_is_the_large_model_and_never_the_small_one(world):
    """Token for token, as is perfect's text, whose calls are exactly the mismatches."""
    tests = world.prompts.filter(split="test")["prompt_id"].to_list()
    rollout_rows = "data/rollouts/duo/toy/tokens-*.parquet"
    large, small = (texts_of(f"data/dumps/{role}/toy/tokens-*.parquet") for role in ("large", "small"))

    assert {name: large[name] for name in tests} == texts_of(rollout_rows, policy="oracle+always")
    assert {name: large[name] for name in tests} == texts_of(rollout_rows, policy="oracle+perfect")
    assert {name: small[name] for name in tests} == texts_of(rollout_rows, policy="oracle+never")
    perfect = parquet.read(rollout_rows).filter(policy="oracle+perfect")
    assert perfect["called"].equals(perfect["mismatch"])


def test_fused_tokens_marked_exact_are_those_of_the_full_vocabulary(world):
    """On dumped text every certified token equals the argmax over all ids, whatever the lists hold."""
    fused = parquet.read("data/fused/duo/toy/fused-*.parquet")
    ids = prompt_ids(world)
    checked = 0
    for (method, writer), rows in fused.filter("certified").group_by("method", "writer"):
        texts = texts_of(f"data/dumps/{writer}/toy/tokens-*.parquet")
        entry = world.settings.methods[method]
        for row in rows.sample(min(25, len(rows)), seed=2).iter_rows(named=True):
            prefix = ids[row["prompt_id"]] + texts[row["prompt_id"]][: row["pos"]]
            logits = [reference.next_logits(world.loaded[r], prefix) for r in ("large", "small", "tuned")]

            assert reference.fuse(entry.rule, entry.parameters, *logits) == row["fused_id"]
            checked += 1
    assert checked > 100


def test_the_simulation_is_exact_until_the_policy_leaves_the_text(world):
    """Proven rows marked on_policy carry the decisions of the policy's own rollout."""
    keys = ["policy", "prompt_id", "pos"]
    routed = parquet.read("data/routes/duo/toy/simulated-*.parquet").filter(
        pl.col("on_policy") & pl.col("certified")
    )
    rollout_rows = parquet.read("data/rollouts/duo/toy/tokens-*.parquet")

    both = routed.join(rollout_rows, on=keys, how="left", suffix="_rolled", validate="1:1")

    assert len(both) > 500
    assert both["called"].equals(both["called_rolled"], check_names=False)
    assert both["mismatch"].equals(both["mismatch_rolled"], check_names=False)


def test_fusing_and_routing_hold_a_shard_at_a_time(finished, tmp_path, monkeypatch):
    """Calibration, which needs all of its prompts, is all that reads over shards; the bytes are the same."""
    made = [path for kind in ("fused", "routes") for path in Path("data", kind).rglob("*.parquet")]
    expected = {path: path.read_bytes() for path in made}
    shutil.copytree("data", tmp_path / "data", symlinks=True)
    for kind in ("fused", "routes"):
        shutil.rmtree(tmp_path / "data" / kind)
    monkeypatch.chdir(tmp_path)
    opened = []

    def spy(look, source, *rest):
        opened.append(Path(source).name)
        return look(source, *rest)

    for name in ("read", "scan"):
        monkeypatch.setattr(parquet, name, functools.partial(spy, getattr(parquet, name)))

    fuse.fuse_pair(finished, "duo")
    assert {name.split("-")[-1] for name in opened} == {"0000.parquet", "0001.parquet", "0002.parquet"}
    opened.clear()
    route.route_pair(finished, "duo")

    for kind in ("fused", "tokens", "reads"):
        numbers = [name.removeprefix(f"{kind}-") for name in opened if name.startswith(kind)]
        assert [*dict.fromkeys(numbers)] == ["*.parquet", "0000.parquet", "0001.parquet", "0002.parquet"]
    assert all(path.read_bytes() == expected[path] for path in expected)
