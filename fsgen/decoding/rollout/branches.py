"""The branches of a prefix tree: which texts there are, which runs have written them, and how they split.

Shape legend: B branches, R runs on them (a policy on a prompt), C children (branches after the next token).
"""

from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import torch

from fsgen.decoding.rollout.runs import FinishedText, PendingText
from fsgen.decoding.texts import StopRule, TokenSequence


class PendingNode(NamedTuple):
    """A node at which no token has been fused yet."""

    node: int
    """Its number in the node table."""
    pos: int
    """Position in the text, from 0, of the token that is chosen there."""
    hidden: dict[str, torch.Tensor]
    """Role to hidden state [H], for the models that have read the text up to here."""


@dataclass
class Branch:
    """A text of a prompt, shared by all runs that have written it so far."""

    prompt: int
    text: TokenSequence
    pending: list[PendingNode] = field(default_factory=list)
    """Its latest nodes, since the large model last read it."""


class Children(NamedTuple):
    """The texts after the next token: one for each branch and token that some run adds to it."""

    parent_C: np.ndarray
    child_R: np.ndarray
    """Run to its child."""
    texts: list[TokenSequence]
    is_finished_C: np.ndarray

    @property
    def leaves_row_C(self) -> np.ndarray:
        """Whether the child cannot simply keep its parent's cache row: it ends, or has siblings."""
        return self.is_finished_C | (np.bincount(self.parent_C)[self.parent_C] > 1)


class Branches:
    """All branches of a tree, in the order of the cache rows.

    `run_R` and `branch_R` say which run writes which branch.
    """

    def __init__(self, prompts: dict[str, list[int]], stop_rule: StopRule, vocabulary: int):
        self.prompt_ids = np.array(list(prompts))
        self.prompts = list(prompts.values())
        self.stop_rule, self.vocabulary = stop_rule, vocabulary
        self.run_R, self.branch_R = np.zeros(0, np.int64), np.zeros(0, np.int64)
        self._branches: list[Branch] = []

    def __len__(self) -> int:
        return len(self._branches)

    def __getitem__(self, index: int) -> Branch:
        return self._branches[index]

    @property
    def prompt_B(self) -> np.ndarray:
        """Index of each branch's prompt."""
        return np.array([branch.prompt for branch in self._branches], dtype=np.int64)

    @property
    def pos_B(self) -> np.ndarray:
        """Position of the token that comes next on each branch."""
        return np.array([len(branch.text.ids) for branch in self._branches], dtype=np.int32)

    def sequence(self, index: int) -> list[int]:
        """The prompt and the text of a branch."""
        branch = self._branches[index]
        return self.prompts[branch.prompt] + branch.text.ids

    def attach(self, group: list[PendingText]) -> None:
        """Add a prompt's pending texts, one branch for all that are equal."""
        index_of: dict[tuple[int, ...], int] = {}
        for pending in group:
            ids = tuple(pending.text.ids)
            if ids not in index_of:
                index_of[ids] = len(self._branches)
                self._branches.append(Branch(pending.prompt, pending.text))
        self.run_R = np.append(self.run_R, [pending.run for pending in group])
        self.branch_R = np.append(self.branch_R, [index_of[tuple(pending.text.ids)] for pending in group])

    def add_nodes(self, node_B: np.ndarray) -> None:
        """Put a new pending node at the end of every branch."""
        for node, branch in zip(node_B.tolist(), self._branches, strict=True):
            branch.pending.append(PendingNode(node, len(branch.text.ids), {}))

    def children(self, branch_R: np.ndarray, token_R: np.ndarray) -> Children:
        """What runs on these branches write with these tokens; equal tokens on a branch make one child."""
        key_C, child_R = np.unique(branch_R * self.vocabulary + token_R, return_inverse=True)
        parent_C, token_C = np.divmod(key_C, self.vocabulary)
        parents = [self._branches[parent] for parent in parent_C]
        prompt_ids = self.prompt_ids[[parent.prompt for parent in parents]]
        longer = [p.text.followed_by(t) for p, t in zip(parents, token_C.tolist(), strict=True)]
        texts = self.stop_rule.close_finished_turns(prompt_ids, longer)
        is_finished_C = [self.stop_rule.is_finished(*child) for child in zip(prompt_ids, texts, strict=True)]
        return Children(parent_C, child_R, texts, np.array(is_finished_C, dtype=bool))

    def replace(self, children: Children) -> list[FinishedText]:
        """Let the unfinished children take the place of all branches; returns the finished texts."""
        is_open_C = ~children.is_finished_C
        is_open_R = is_open_C[children.child_R]
        parents = [self._branches[parent] for parent in children.parent_C]
        finished = [
            FinishedText(run, parents[child].prompt, children.texts[child])
            for run, child in zip(self.run_R[~is_open_R].tolist(), children.child_R[~is_open_R], strict=True)
        ]
        self._branches = [
            Branch(parents[child].prompt, children.texts[child], [*parents[child].pending])
            for child in np.flatnonzero(is_open_C)
        ]
        self.run_R = self.run_R[is_open_R]
        self.branch_R = (np.cumsum(is_open_C) - 1)[children.child_R[is_open_R]]
        return finished
