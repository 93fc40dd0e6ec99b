"""The prefix tree: policies write their texts together, and a model reads what they share once.

Shape legend: B branches (distinct texts of a prompt), R runs on them (a policy on a prompt), N chosen runs or
branches, M methods, L tokens that a model reads of a branch, H hidden width.

Runs that have written the same tokens on the same prompt share a branch. In every step each branch gets a
node, at which each of its runs chooses the next token. The default models read every branch up to its new
node. The other models lag behind. They catch up on a branch in one pass over all nodes they have missed,
when a run on it calls the large model, or when the branch splits or its text ends. So every model reads
every node once, and nodes without a call get their fused tokens too, only later.

Example: two policies, A and B, fuse the logits of large and small on the prompt "p q". B never calls.

    step 0   Both models read "p" when the prompt enters the tree. A and B share its only branch.
    step 1   small reads "q". Neither calls, both write the default token "x". The branch goes on.
    step 2   small reads "x". A calls, so large reads "q x" in one pass, and both nodes are fused.
             A writes the fused token "y", B the default token "z". The branch splits, and the cache rows of
             both models are copied.
    step 3   small reads "y" for A and "z" for B, in one batch of two rows.

Before the split small has read "q" and "x" once for both policies, and large has made one pass.
"""

from typing import NamedTuple

import numpy as np
import torch

from fsgen.collaboration.router_input import RouterInput, blank_router_input
from fsgen.collaboration.routers import position_uniforms
from fsgen.config.policies import Method
from fsgen.config.schema import Settings
from fsgen.decoding import lm_head
from fsgen.decoding.rollout.admission import AdmissionQueue
from fsgen.decoding.rollout.branches import Branches
from fsgen.decoding.rollout.decisions import Decisions
from fsgen.decoding.rollout.node_fusion import fuse_nodes
from fsgen.decoding.rollout.node_table import NodeTable, StepDecisions
from fsgen.decoding.rollout.runs import FinishedText, PendingText, PolicyRun
from fsgen.decoding.texts import StopRule
from fsgen.execution import console
from fsgen.models.kv_cache import RaggedKVCache
from fsgen.models.loaded_model import LoadedModel


class TreeResult(NamedTuple):
    """What the runs decided on a tree, and what they wrote."""

    decisions: Decisions | None
    """None if no text was pending."""
    finished: list[FinishedText]


class _DefaultScores(NamedTuple):
    """A default model's top tokens, and what routers see of it; undefined on branches that do not use it."""

    token_B: np.ndarray
    seen: RouterInput


class _Step(NamedTuple):
    """The new nodes of a step, one on each branch."""

    node_B: np.ndarray
    prompt_B: np.ndarray
    pos_B: np.ndarray
    uniform_B: np.ndarray
    """The positions' random draws."""
    scores: dict[str, _DefaultScores]
    """By the role of the default model."""


class PrefixTree:
    """Continues the texts of all runs on some prompts, with about `rows` branches at most.

    `loaded` maps roles to models, `prompts` prompt ids to tokens.
    """

    def __init__(
        self,
        loaded: dict[str, LoadedModel],
        prompts: dict[str, list[int]],
        runs: list[PolicyRun],
        stop_rule: StopRule,
        settings: Settings,
        rows: int,
    ):
        self.loaded, self.prompts, self.runs, self.rows = loaded, prompts, runs, rows
        self.seed, self.dump = settings.seed, settings.dump
        self.max_new_tokens = stop_rule.max_new_tokens
        budget = settings.compute.max_batch_tokens
        self.caches = {role: RaggedKVCache(model, budget) for role, model in loaded.items()}
        methods = {run.policy.method: run.method for run in runs}
        self.methods: list[Method] = list(methods.values())
        self.rules = [method.definition for method in self.methods]
        self.method_of_run = np.array([list(methods).index(run.policy.method) for run in runs])
        self.default_role_of_run = np.array([run.method.definition.default_role for run in runs])
        self.needs_fused_of_run = np.array([run.router.needs_fused_token for run in runs])
        self.default_roles = [role for role in loaded if role in self.default_role_of_run]
        self.branches = Branches(prompts, stop_rule, loaded["large"].vocabulary)
        self.nodes = NodeTable(len(methods))
        self.finished: list[FinishedText] = []

    @torch.inference_mode()
    def run(self, pending: list[PendingText], bar: console.Bar) -> TreeResult:
        """Continue all pending texts to their ends."""
        widths = [len(ids) + self.max_new_tokens for ids in self.prompts.values()]
        queue = AdmissionQueue(pending, widths, self.rows)
        while queue or self.branches:
            self._admit(queue)
            bar.advance(tokens=len(self.branches))
            token_R = self._decide(self._score_defaults())
            bar.advance(self._advance(token_R))
        decisions = self.nodes.decisions(self.method_of_run, self.default_role_of_run)
        return TreeResult(decisions, self.finished)

    def _admit(self, queue: AdmissionQueue) -> None:
        """Add branches for the prompts that may enter, and prefill them."""
        first = len(self.branches)
        groups = queue.admit(self.branches.prompt_B.tolist())
        for group in groups:
            self.branches.attach(group)
        if groups:
            for role in self.caches:
                self._prefill(role, first)

    def _prefill(self, role: str, first: int) -> None:
        """Read the branches from `first` on, all but their last tokens, which the next step reads."""
        # the last token is left to the first step, whose node needs the hidden state after it
        needs_B = self._needs(role)
        texts = [
            self.branches.sequence(b)[:-1] if needs_B[b] else [] for b in range(first, len(self.branches))
        ]
        self.caches[role].prefill_shared(texts)

    def _methods_on_branches(self) -> np.ndarray:
        """Whether some run on a branch uses a method, bool [B, M]."""
        uses_BM = np.zeros((len(self.branches), len(self.methods)), dtype=bool)
        uses_BM[self.branches.branch_R, self.method_of_run[self.branches.run_R]] = True
        return uses_BM

    def _needs(self, role: str) -> np.ndarray:
        """Whether some run on a branch needs this model, bool [B]."""
        requires_M = np.array([role in rule.requires for rule in self.rules])
        return self._methods_on_branches()[:, requires_M].any(axis=1)

    def _score_defaults(self) -> _Step:
        """Add a node to every branch, and let the default models read up to it."""
        node_B = self.nodes.add_nodes(len(self.branches))
        self.branches.add_nodes(node_B)
        scores = {role: self._score(role) for role in self.default_roles}
        for role, score in scores.items():
            self.nodes.add_router_input(role, score.seen)
        prompt_B, pos_B = self.branches.prompt_B, self.branches.pos_B
        uniform_B = position_uniforms(self.seed, self.branches.prompt_ids[prompt_B], pos_B)
        return _Step(node_B, prompt_B, pos_B, uniform_B, scores)

    def _score(self, role: str) -> _DefaultScores:
        """What a default model says at the new nodes of the branches that use it."""
        uses_R = self.default_role_of_run[self.branches.run_R] == role
        rows = np.unique(self.branches.branch_R[uses_R])
        size = len(self.branches)
        scores = _DefaultScores(np.full(size, -1, np.int32), blank_router_input(size, self.dump.min_top_k))
        if len(rows):
            hidden_NH = torch.stack([hidden_LH[-1] for hidden_LH in self._read(role, rows)])
            for b, hidden_H in zip(rows, hidden_NH, strict=True):
                self.branches[b].pending[-1].hidden[role] = hidden_H
            token_N, seen = lm_head.router_input_from_hidden(self.loaded[role], hidden_NH, self.dump)
            for array_B, values_N in zip((scores.token_B, *scores.seen), (token_N, *seen), strict=True):
                array_B[rows] = values_N
        return scores

    def _read(self, role: str, rows: np.ndarray) -> list[torch.Tensor]:
        """Let a model read what it has missed of these branches; hidden states after each token, [L, H]."""
        cache = self.caches[role]
        missed = [self.branches.sequence(b)[cache.length_R[b] :] for b in rows]
        return list(cache.append(missed, rows).split([len(tokens) for tokens in missed]))

    def _decide(self, step: _Step) -> np.ndarray:
        """The next token of every run, [R]: the fused one where its router calls, else the default one."""
        run_R, branch_R = self.branches.run_R, self.branches.branch_R
        default_R = self._default_tokens(step)
        # routers such as `perfect` see the fused token, so the large model has to be read before they decide
        needs_fused_R = self.needs_fused_of_run[run_R]
        called_R = self._called(step, default_R, ~needs_fused_R)
        self._query_large(self._branches_to_query(called_R | needs_fused_R, default_R))
        called_R |= self._called(step, default_R, needs_fused_R)
        prompt_R, node_R, pos_R = (array_B[branch_R] for array_B in (step.prompt_B, step.node_B, step.pos_B))
        self.nodes.add_step(StepDecisions(run_R, prompt_R, node_R, pos_R, called_R, default_R))
        return np.where(called_R, self.nodes.fused_ids(node_R, self.method_of_run[run_R]), default_R)

    def _default_tokens(self, step: _Step) -> np.ndarray:
        """Top tokens of the runs' default models, [R]."""
        role_R = self.default_role_of_run[self.branches.run_R]
        default_R = np.zeros(len(role_R), dtype=np.int32)
        for role, scores in step.scores.items():
            uses_R = role_R == role
            default_R[uses_R] = scores.token_B[self.branches.branch_R[uses_R]]
        return default_R

    def _called(self, step: _Step, default_R: np.ndarray, chosen_R: np.ndarray) -> np.ndarray:
        """Whether the routers of the chosen runs call the large model, bool [R]; False for other runs."""
        called_R = np.zeros(len(chosen_R), dtype=bool)
        for index in np.unique(self.branches.run_R[chosen_R]):
            rows = np.flatnonzero(self.branches.run_R == index)
            branch_N = self.branches.branch_R[rows]
            fused_N = self.nodes.fused_ids(step.node_B[branch_N], self.method_of_run[index])
            seen = step.scores[self.default_role_of_run[index]].seen.take(branch_N)
            called_R[rows] = self.runs[index].router.decide(
                seen, step.uniform_B[branch_N], fused_N != default_R[rows]
            )
        return called_R

    def _branches_to_query(self, calls_R: np.ndarray, default_R: np.ndarray) -> np.ndarray:
        """Branches on which a run calls, and others that default tokens end or split: one pass for all."""
        branch_R = self.branches.branch_R
        is_queried_B = np.zeros(len(self.branches), dtype=bool)
        is_queried_B[branch_R[calls_R]] = True
        # a branch that splits unread would be caught up once for each child, and one that ends never
        is_quiet_R = ~is_queried_B[branch_R]
        children = self.branches.children(branch_R[is_quiet_R], default_R[is_quiet_R])
        is_queried_B[children.parent_C[children.leaves_row_C]] = True
        return np.flatnonzero(is_queried_B)

    def _query_large(self, rows: np.ndarray) -> None:
        """Let the models that lag catch up on these branches, and fuse at all pending nodes."""
        rows = np.array([b for b in rows if self.branches[b].pending], dtype=np.int64)
        if not len(rows):
            return
        for role in self.caches:
            behind = self._behind(role, rows)
            if len(behind):
                self._read_missed(role, behind)
        self._fuse_pending(rows)

    def _behind(self, role: str, rows: np.ndarray) -> np.ndarray:
        """Those of the branches that need a model which has not read them to their ends."""
        lengths = np.array([len(self.branches.sequence(b)) for b in rows])
        return rows[self._needs(role)[rows] & (self.caches[role].length_R[rows] < lengths)]

    def _read_missed(self, role: str, rows: np.ndarray) -> None:
        """Let a model catch up on these branches, and store its hidden states at the pending nodes.

        It may have missed more tokens than there are nodes: those of a next question are given, not chosen.
        """
        first = {b: int(self.caches[role].length_R[b]) for b in rows}
        for b, hidden_LH in zip(rows, self._read(role, rows), strict=True):
            branch = self.branches[b]
            last_prompt_token = len(self.branches.prompts[branch.prompt]) - 1
            for node in branch.pending:
                node.hidden[role] = hidden_LH[last_prompt_token + node.pos - first[b]]

    def _fuse_pending(self, rows: np.ndarray) -> None:
        """Fuse at all pending nodes of these branches, a few at a time, for the methods in use there."""
        counts = [len(self.branches[b].pending) for b in rows]
        pending = [node for b in rows for node in self.branches[b].pending]
        uses_NM = np.repeat(self._methods_on_branches()[rows], counts, axis=0)
        # a few nodes at a time: logits over 150,000 ids take 0.6 MB a node and model
        for span in self.loaded["large"].row_chunks(len(pending)):
            fuse_nodes(self.loaded, self.methods, pending[span], uses_NM[span], self.nodes)
        for b in rows:
            self.branches[b].pending = []

    def _advance(self, token_R: np.ndarray) -> int:
        """Append the runs' tokens, split branches and remove finished ones; returns how many texts ended."""
        children = self.branches.children(self.branches.branch_R, token_R)
        finished = self.branches.replace(children)
        self.finished += finished
        for cache in self.caches.values():
            cache.reorder(children.parent_C[~children.is_finished_C])
        return len(finished)
