"""Branches of a prefix tree: shared while the runs' texts are equal, split and finished by their tokens."""

import numpy as np
import pytest

from fsgen.decoding.rollout.branches import Branches
from fsgen.decoding.rollout.runs import FinishedText, PendingText
from fsgen.decoding.texts import StopRule, TokenSequence
from tests.conftest import WORDS, make_tokenizer

TOKENIZER = make_tokenizer(WORDS)
END = TOKENIZER.eos_token_id
RULE = StopRule(TOKENIZER, (END,), (), max_new_tokens=4)
PROMPTS = {"p": [7, 8], "q": [9]}


@pytest.fixture
def branches() -> Branches:
    """Runs 0 and 1 on an empty text of p, run 2 on another text of p, run 0 on q."""
    branches = Branches(PROMPTS, RULE, vocabulary=len(TOKENIZER))
    branches.attach(
        [
            PendingText(0, 0, TokenSequence([])),
            PendingText(1, 0, TokenSequence([])),
            PendingText(2, 0, text([3])),
        ]
    )
    branches.attach([PendingText(0, 1, TokenSequence([]))])
    return branches


def text(ids: list[int]) -> TokenSequence:
    return TokenSequence(ids)


def ids_of(branches: Branches) -> list[list[int]]:
    return [branches.sequence(b) for b in range(len(branches))]


def test_equal_texts_of_a_prompt_share_a_branch(branches):
    """And texts of two prompts never do."""
    assert ids_of(branches) == [[7, 8], [7, 8, 3], [9]]
    assert branches.run_R.tolist() == [0, 1, 2, 0]
    assert branches.branch_R.tolist() == [0, 0, 1, 2]
    assert branches.prompt_B.tolist() == [0, 0, 1]
    assert branches.pos_B.tolist() == [0, 1, 0]


def test_a_branch_goes_on_splits_and_ends(branches):
    """Equal tokens keep a branch, different ones split it, and a run that writes the end token leaves it."""
    same = branches.children(branches.branch_R, np.array([5, 5, 6, 4]))
    split = branches.children(branches.branch_R, np.array([5, 6, END, 4]))

    assert not same.leaves_row_C.any()
    assert split.parent_C.tolist() == [0, 0, 1, 2]
    assert split.leaves_row_C.tolist() == [True, True, True, False]
    (finished,) = branches.replace(split)
    assert finished == FinishedText(2, 0, split.texts[2])
    assert finished.text.ids == [3, END]
    assert ids_of(branches) == [[7, 8, 5], [7, 8, 6], [9, 4]]
    assert branches.run_R.tolist() == [0, 1, 0]
    assert branches.branch_R.tolist() == [0, 1, 2]


def test_pending_nodes_stay_with_a_branch_that_goes_on(branches):
    """A node's position is that of the token which is chosen there."""
    branches.add_nodes(np.array([10, 11, 12]))
    branches.replace(branches.children(branches.branch_R, np.array([5, 5, 6, 4])))
    branches.add_nodes(np.array([13, 14, 15]))

    assert [(node.node, node.pos) for node in branches[1].pending] == [(11, 1), (14, 2)]
