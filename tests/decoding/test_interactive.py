"""A pair that writes token by token writes what the rollout writes, at the same cost."""

import numpy as np
import polars as pl
import pytest

from fsgen.analysis import costs
from fsgen.config.policies import parse_policy
from fsgen.decoding import interactive, pair_session
from fsgen.decoding.interactive import GeneratedToken, LargeModelUse
from fsgen.decoding.pair_session import PairSession
from fsgen.errors import UserError
from fsgen.models import loading, spec
from fsgen.tables import parquet


def open_in_memory(world, monkeypatch, policy: str) -> PairSession:
    """A session whose models are the fixture's."""
    monkeypatch.setattr(loading, "load_model", lambda settings, name: world.loaded[name])
    return pair_session.open_session(world.settings, "duo", policy, "toy")


def generate(session: PairSession, prompt_id: str, usage: LargeModelUse) -> list[GeneratedToken]:
    """The session's text on a prompt of the dataset."""
    prompt = pair_session.dataset_prompt(session, prompt_id)
    return list(interactive.generate_tokens(session, prompt, usage))


def test_every_policy_writes_its_rolled_text(world, monkeypatch):
    """Token for token, with the same calls and defaults; conversations in their first turn."""
    rollout_rows = parquet.read("data/rollouts/duo/toy/tokens-*.parquet").filter(turn=1).sort("pos")
    written = rollout_rows.filter(~pl.col("from_template")).partition_by("policy", "prompt_id", as_dict=True)
    prompts = rollout_rows["prompt_id"].unique().sort().to_list()[:3]
    for policy in rollout_rows["policy"].unique().sort():
        session = open_in_memory(world, monkeypatch, policy)
        for name in prompts:
            tokens = generate(session, name, LargeModelUse())
            rows = written[policy, name]
            assert [token.token_id for token in tokens] == rows["token_id"].to_list(), policy
            assert [token.called for token in tokens] == rows["called"].to_list(), policy
            assert [token.default_id for token in tokens] == rows["default_id"].to_list(), policy
            changed = rows["called"] & rows["mismatch"]
            assert [token.is_changed for token in tokens] == changed.to_list(), policy


@pytest.mark.parametrize("draft", [1, 2, 5, 40])
def test_drafting_writes_the_large_models_text(world, monkeypatch, draft):
    """Whatever K, in the rounds and at the price that fsgen.analysis.costs finds on its dump."""
    fused = parquet.read("data/fused/duo/toy/fused-*.parquet").filter(method="speculative", writer="large")
    differs = fused.filter(turn=1, from_template=False).sort("pos").partition_by("prompt_id", as_dict=True)
    alone = (
        parquet.read("data/dumps/large/toy/tokens-*.parquet").filter(turn=1, from_template=False).sort("pos")
    )
    texts = alone.partition_by("prompt_id", as_dict=True)
    session = open_in_memory(world, monkeypatch, f"speculative@{draft}")
    for (name,), rows in list(texts.items())[:4]:
        usage = LargeModelUse()
        tokens = generate(session, name, usage)
        assert [token.token_id for token in tokens] == rows["token_id"].to_list()
        assert usage.passes == count_rounds([token.is_changed for token in tokens], draft)
        mismatch_N = differs[name,]["mismatch"].to_numpy()[: len(rows)]
        rounds = costs.speculative_rounds(mismatch_N, np.zeros(len(rows)), draft)
        assert usage == LargeModelUse(*(int(of[0]) for of in costs.verified(rounds, [1])[:2]))


def count_rounds(changed: list[bool], draft: int) -> int:
    """Rounds of drafting along a text, counted by hand."""
    rounds = at = 0
    while at < len(changed):
        rounds += 1
        wrong = next((i for i in range(draft) if at + i < len(changed) and changed[at + i]), draft)
        at += wrong + 1
    return rounds


def test_it_costs_what_the_policy_costs(world, monkeypatch):
    """Passes are calls; positions run to the last call, since skipped ones are caught up."""
    for policy in ("oracle+max_probability", "oracle+perfect", "proxy+always", "oracle+never"):
        session = open_in_memory(world, monkeypatch, policy)
        name = parquet.read("data/prompts/toy.parquet").filter(split="test")["prompt_id"][1]
        usage = LargeModelUse()
        called = [token.called for token in generate(session, name, usage)]
        last = max((i + 1 for i, call in enumerate(called) if call), default=0)
        assert usage == LargeModelUse(sum(called), last)


def test_a_budget_that_params_do_not_name_is_calibrated_on_the_spot(world, monkeypatch):
    """Any policy will do; a stricter budget calls less on the calibration prompts."""
    thresholds = [
        open_in_memory(world, monkeypatch, f"oracle+entropy@{budget}").router.threshold
        for budget in (5, 15, 60)
    ]
    assert thresholds == sorted(thresholds, reverse=True)
    assert thresholds[0] > thresholds[-1]


def test_a_question_of_ones_own(world, monkeypatch):
    """It is the prompt, as it stands; an id that the dataset does not have is refused."""
    session = open_in_memory(world, monkeypatch, "oracle+always")
    row = pair_session.custom_prompt(session, "w1 w2 w3")
    assert row["plain"].to_list() == ["w1 w2 w3"]
    (ids,) = spec.prompt_ids(world.loaded["large"], row, world.limit)
    assert ids == world.loaded["large"].tokenizer("w1 w2 w3")["input_ids"]
    assert len([*interactive.generate_tokens(session, row, LargeModelUse())]) <= world.limit
    with pytest.raises(UserError, match="There is no prompt 'toy-999'"):
        pair_session.dataset_prompt(session, "toy-999")


def test_refusals(world, monkeypatch):
    """A policy that cannot be, a pair or a dataset that is not there."""
    for pair, policy, dataset, words in [
        ("duo", "oracle+entropi@20", "toy", "did you mean 'entropy'"),
        ("duo", "oracle+entropy", "toy", "needs a budget"),
        ("dou", "oracle+always", "toy", "did you mean 'duo'"),
        ("duo", "oracle+always", "tyo", "did you mean 'toy'"),
    ]:
        with pytest.raises(UserError, match=words):
            pair_session.open_session(world.settings, pair, policy, dataset)
    assert parse_policy("speculative@3", world.settings.methods, world.settings.routers).draft == 3
