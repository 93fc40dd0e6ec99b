"""Replay along dumped texts: how far a policy gets, and at which rows it decides on the way."""

import numpy as np
import polars as pl

from fsgen.decoding.rollout.dumped_texts import DumpedTexts
from fsgen.decoding.rollout.replay import ReplayedPrefix, replay_run
from fsgen.decoding.texts import Turn

A, B, C, D, E = range(5)
TURN = Turn(0, 0, 3, "eos", 3)


def dumped(
    fused: int, certified: tuple[bool, ...] = (True, True, True), from_template: int = 0
) -> DumpedTexts:
    """Small wrote A B C and large A B D on one prompt; at position 2 a method fuses this token."""
    columns = {
        "prompt_id": ["p"] * 6,
        "source": [0, 0, 0, 1, 1, 1],
        "token_id": [A, B, C, A, B, D],
        "default_id": [A, B, C] * 2,
        "fused_id": [A, B, fused] * 2,
        "certified": [*certified] * 2,
        "from_template": [i < from_template for i in range(3)] * 2,
    }
    return DumpedTexts(pl.DataFrame(columns), ({"p": (TURN,)}, {"p": (TURN,)}))


def replay(texts: DumpedTexts, called: list[bool]) -> ReplayedPrefix:
    """A run that calls at these positions of both texts."""
    return replay_run(texts, np.array(called * 2))["p"]


def test_a_run_that_never_calls_writes_the_default_models_text():
    """To its end, with its turn."""
    prefix = replay(dumped(fused=D), [False, False, False])

    assert (prefix.text.ids, prefix.text.turns) == ([A, B, C], (TURN,))
    assert prefix.rows.tolist() == [0, 1, 2]


def test_a_run_changes_to_the_other_text_where_that_goes_on_with_its_token():
    """Policy A of the module's example."""
    prefix = replay(dumped(fused=D), [False, False, True])

    assert (prefix.text.ids, prefix.text.turns) == ([A, B, D], (TURN,))
    assert prefix.rows.tolist() == [0, 1, 2]


def test_a_token_in_neither_text_ends_the_replay():
    """Policy B of the module's example: the decision counts, and the text goes on without the dumps."""
    prefix = replay(dumped(fused=E), [False, False, True])

    assert (prefix.text.ids, prefix.text.turns) == ([A, B, E], ())
    assert prefix.rows.tolist() == [0, 1, 2]


def test_a_position_without_a_certified_token_ends_the_replay_before_it():
    """Whether or not the run calls there."""
    for called in (False, True):
        prefix = replay(dumped(fused=D, certified=(True, False, True)), [False, called, False])
        assert (prefix.text.ids, prefix.rows.tolist()) == ([A], [0])


def test_given_tokens_are_followed_without_a_decision():
    """Whatever is fused there, and certified or not."""
    prefix = replay(dumped(fused=D, certified=(False, True, True), from_template=1), [True, False, True])

    assert (prefix.text.ids, prefix.rows.tolist()) == ([A, B, D], [1, 2])
