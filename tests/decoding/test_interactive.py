"""A pair writing before one's eyes writes what the closed loop writes, at the same price."""

import numpy as np
import polars as pl
import pytest

from fsgen.analysis import costs
from fsgen.config.policies import parse_policy
from fsgen.decoding import interactive
from fsgen.decoding.interactive import LargeModelUse, PairSession
from fsgen.errors import UserError
from fsgen.models import kv_cache, spec
from fsgen.tables import parquet


def open_in_memory(world, monkeypatch, policy: str) -> PairSession:
    """A duet whose models are the fixture's."""
    monkeypatch.setattr(kv_cache, "load", lambda settings, name: world.loaded[name])
    return interactive.open_session(world.settings, "duo", policy, "toy")


def test_every_policy_writes_its_rolled_text(world, monkeypatch):
    """Token for token, with the same calls and defaults; conversations in their first turn."""
    rolled = parquet.read("data/rollouts/duo/toy/tokens-*.parquet").filter(turn=1).sort("pos")
    written = rolled.filter(~pl.col("forced")).partition_by("policy", "prompt_id", as_dict=True)
    prompts = rolled["prompt_id"].unique().sort().to_list()[:3]
    for policy in rolled["policy"].unique().sort():
        duet = open_in_memory(world, monkeypatch, policy)
        for name in prompts:
            spoken = [
                *interactive.generate_tokens(duet, interactive.known_prompt(duet, name), LargeModelUse())
            ]
            rows = written[policy, name]
            assert [s.token for s in spoken] == rows["token_id"].to_list(), policy
            assert [s.called for s in spoken] == rows["called"].to_list(), policy
            assert [s.default for s in spoken] == rows["default_id"].to_list(), policy
            changed = rows["called"] & rows["mismatch"]
            assert [s.is_changed for s in spoken] == changed.to_list(), policy


@pytest.mark.parametrize("draft", [1, 2, 5, 40])
def test_drafting_writes_the_large_models_text(world, monkeypatch, draft):
    """Whatever K, in the rounds and at the price that fsgen.costs finds on its dump."""
    fused = parquet.read("data/fused/duo/toy/fused-*.parquet").filter(method="speculative", writer="large")
    differs = fused.filter(turn=1, forced=False).sort("pos").partition_by("prompt_id", as_dict=True)
    alone = parquet.read("data/dumps/large/toy/tokens-*.parquet").filter(turn=1, forced=False).sort("pos")
    texts = alone.partition_by("prompt_id", as_dict=True)
    duet = open_in_memory(world, monkeypatch, f"speculative@{draft}")
    for (name,), rows in list(texts.items())[:4]:
        tally = LargeModelUse()
        spoken = [*interactive.generate_tokens(duet, interactive.known_prompt(duet, name), tally)]
        assert [s.token for s in spoken] == rows["token_id"].to_list()
        assert tally.passes == count_rounds([s.is_changed for s in spoken], draft)
        mismatch_N = differs[name,]["mismatch"].to_numpy()[: len(rows)]
        rounds = costs.speculative_rounds(mismatch_N, np.zeros(len(rows)), draft)
        assert tally == LargeModelUse(*(int(of[0]) for of in costs.verified(rounds, [1])[:2]))


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
    for policy in ("oracle+threshold", "oracle+perfect", "proxy+always", "oracle+never"):
        duet = open_in_memory(world, monkeypatch, policy)
        name = parquet.read("data/prompts/toy.parquet").filter(split="test")["prompt_id"][1]
        tally = LargeModelUse()
        called = [
            s.called for s in interactive.generate_tokens(duet, interactive.known_prompt(duet, name), tally)
        ]
        last = max((i + 1 for i, call in enumerate(called) if call), default=0)
        assert tally == LargeModelUse(sum(called), last)


def test_a_budget_that_params_do_not_name_is_calibrated_on_the_spot(world, monkeypatch):
    """Any policy will do; a stricter budget calls less on the calibration prompts."""
    cuts = [open_in_memory(world, monkeypatch, f"oracle+entropy@{budget}").gate.cut for budget in (5, 15, 60)]
    assert cuts == sorted(cuts, reverse=True)
    assert cuts[0] > cuts[-1]


def test_ones_own_words(world, monkeypatch):
    """They are the prompt, as they stand; an id that the dataset has not is refused."""
    duet = open_in_memory(world, monkeypatch, "oracle+always")
    row = interactive.own_words(duet, "w1 w2 w3")
    assert row["plain"].to_list() == ["w1 w2 w3"]
    (ids,) = spec.prompt_ids(world.loaded["large"], row, world.limit)
    assert ids == world.loaded["large"].tokenizer("w1 w2 w3")["input_ids"]
    assert len([*interactive.generate_tokens(duet, row, LargeModelUse())]) <= world.limit
    with pytest.raises(UserError, match="There is no prompt 'toy-999'"):
        interactive.known_prompt(duet, "toy-999")


def test_refusals(world, monkeypatch):
    """A policy that cannot be, a pair or a dataset that is not there."""
    for pair, policy, dataset, words in [
        ("duo", "oracle+entropi@20", "toy", "did you mean 'entropy'"),
        ("duo", "oracle+entropy", "toy", "needs a budget"),
        ("dou", "oracle+always", "toy", "did you mean 'duo'"),
        ("duo", "oracle+always", "tyo", "did you mean 'toy'"),
    ]:
        with pytest.raises(UserError, match=words):
            interactive.open_session(world.settings, pair, policy, dataset)
    assert parse_policy("speculative@3", world.settings.methods, world.settings.routers).draft == 3
