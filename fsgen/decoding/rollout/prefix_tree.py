"""The tree of prefixes: policies ride on branches, and a branch is stepped once for all its riders.

Shape legend: B branches (distinct prefixes) side by side, R riders on them (a policy on a prompt), C children
of the branches, N nodes (a branch at a position), M methods, H hidden width, V usable vocabulary.
The models that speak by default take every step. The others lag behind and catch up, in one pass over all
that they have missed, where a rider calls, where a branch splits and where one ends: so they read every
node once, and what the large model would have said where nobody asked it is known as well.
"""

from dataclasses import dataclass, field
from itertools import groupby
from typing import NamedTuple

import numpy as np
import torch

from fsgen.collaboration import fusion, router_input, routers
from fsgen.collaboration.router_input import RouterInput
from fsgen.config.policies import Method
from fsgen.config.schema import Settings
from fsgen.decoding import lm_head
from fsgen.decoding.rollout.admission import AdmissionQueue, PendingText
from fsgen.decoding.rollout.node_table import NodeTable
from fsgen.decoding.rollout.replay import PolicyRun
from fsgen.decoding.texts import StopRule, TokenSequence
from fsgen.execution import console
from fsgen.models.kv_cache import RaggedKVCache
from fsgen.models.loaded_model import LoadedModel


class FinishedText(NamedTuple):
    """A rider's finished text."""

    rider: int
    prompt: int
    text: TokenSequence


class TreeResult(NamedTuple):
    """What the tree has found out: decisions by rider and position, and texts."""

    decisions: dict[str, np.ndarray]
    ends: list[FinishedText]


class _Children(NamedTuple):
    """What branches become by their riders' tokens, by parent and token."""

    parent_C: np.ndarray
    child_R: np.ndarray
    """Rider to its child."""
    texts: list[TokenSequence]
    is_ended_C: np.ndarray

    @property
    def is_lost_C(self) -> np.ndarray:
        """Whether the parent's place in the caches goes with it: where it ends or splits."""
        return self.is_ended_C | (np.bincount(self.parent_C)[self.parent_C] > 1)


class _PendingNode(NamedTuple):
    """A node where nothing is fused yet."""

    node: int
    pos: int
    hidden: dict[str, torch.Tensor]
    """Hidden states [H] there of the models that have stepped on it."""


@dataclass
class _Branch:
    prompt: int
    text: TokenSequence
    unread: list[_PendingNode] = field(default_factory=list)


class PrefixTree:
    """Riders' texts from where they start to their ends, at most about `rows` branches side by side."""

    def __init__(
        self,
        loaded: dict[str, LoadedModel],
        prompts: dict[str, list[int]],
        riders: list[PolicyRun],
        until: StopRule,
        settings: Settings,
        rows: int,
    ):
        self.loaded, self.riders, self.until, self.settings, self.rows = loaded, riders, until, settings, rows
        self.names_P, self.prompts = np.array(list(prompts)), list(prompts.values())
        self.cursors = {
            role: RaggedKVCache(model, settings.compute.read_tokens) for role, model in loaded.items()
        }
        methods = {rider.policy.method: rider.method for rider in riders}
        self.methods: list[Method] = list(methods.values())
        self.method_of = np.array([list(methods).index(rider.policy.method) for rider in riders])
        self.speaker_of = np.array([fusion.default_role(rider.method) for rider in riders])
        self.speakers = [role for role in loaded if role in self.speaker_of]
        self.branches: list[_Branch] = []
        self.rider_R, self.branch_R = np.zeros(0, np.int64), np.zeros(0, np.int64)
        self.nodes = NodeTable(len(methods))
        self.ends: list[FinishedText] = []

    @torch.inference_mode()
    def grow(self, starts: list[PendingText], bar: console.Bar) -> TreeResult:
        """Run every rider to its end."""
        widths = [len(prompt) + self.until.max_new_tokens for prompt in self.prompts]
        waiting = AdmissionQueue(starts, widths, self.rows)
        while waiting or self.branches:
            self._admit(waiting)
            bar.advance(tokens=len(self.branches))
            token_R = self._decide(*self._look())
            bar.advance(self._move(token_R))
        return TreeResult(self.nodes.decisions(self.method_of, self.speaker_of), self.ends)

    def _admit(self, waiting: AdmissionQueue) -> None:
        """Let prompts enter, all branches of one at once."""
        held = len(self.branches)
        groups = waiting.enter([branch.prompt for branch in self.branches])
        for group in groups:
            self._board(group)
        if groups:
            for role in self.cursors:
                self._enter(role, held)

    def _enter(self, role: str, held: int) -> None:
        """Prefill the new branches, all but their last token, which is the first that the loop feeds."""
        needs_B = self._needs(role)
        texts = [self._sequence(b)[:-1] if needs_B[b] else [] for b in range(held, len(self.branches))]
        self.cursors[role].begin(texts)

    def _rides(self) -> np.ndarray:
        """Which methods ride on which branches, bool [B, M]."""
        rides_BM = np.zeros((len(self.branches), len(self.methods)), dtype=bool)
        rides_BM[self.branch_R, self.method_of[self.rider_R]] = True
        return rides_BM

    def _needs(self, role: str) -> np.ndarray:
        """Branches [B] on which some rider needs this model at all."""
        rules = [fusion.RULES[method.rule] for method in self.methods]
        is_user_M = np.array([role in {rule.speaker, *rule.inputs} for rule in rules])
        return self._rides()[:, is_user_M].any(axis=1)

    def _board(self, group: list[PendingText]) -> None:
        """Put the riders of one prompt on new branches."""
        texts = [
            next(same) for _, same in groupby((start.text for start in group), key=lambda text: text.ids)
        ]
        place = {tuple(text.ids): len(self.branches) + i for i, text in enumerate(texts)}
        self.branches += [_Branch(group[0].prompt, text) for text in texts]
        self.rider_R = np.append(self.rider_R, [start.rider for start in group])
        self.branch_R = np.append(self.branch_R, [place[tuple(start.text.ids)] for start in group])

    def _look(self) -> tuple[np.ndarray, dict[str, np.ndarray], dict[str, RouterInput]]:
        """Step the speakers onto new nodes; the nodes [B], the speakers' tokens there, what routers see."""
        node_B = self.nodes.add(len(self.branches))
        for node, branch in zip(node_B.tolist(), self.branches, strict=True):
            branch.unread.append(_PendingNode(node, len(branch.text.ids), {}))
        tops, seen = {}, {}
        for role in self.speakers:
            rows = np.unique(self.branch_R[self.speaker_of[self.rider_R] == role])
            tops[role], seen[role] = self._step(role, rows)
        self.nodes.note_look(tops, seen)
        return node_B, tops, seen

    def _step(self, role: str, rows: np.ndarray) -> tuple[np.ndarray, RouterInput]:
        """Top token and what routers see at these branches; at others whatever."""
        top_B = np.full(len(self.branches), -1, np.int32)
        seen = router_input.blank_router_input(len(self.branches), self.settings.dump.k_min)
        if len(rows):
            hidden_BH = torch.stack([hidden_NH[-1] for hidden_NH in self._catch_up(role, rows)])
            for b, hidden_H in zip(rows, hidden_BH, strict=True):
                self.branches[b].unread[-1].hidden[role] = hidden_H
            top_B[rows], found = lm_head.router_input_from_hidden(
                self.loaded[role], hidden_BH, self.settings.dump
            )
            for array_B, values in zip(seen, found, strict=True):
                array_B[rows] = values
        return top_B, seen

    def _catch_up(self, role: str, rows: np.ndarray) -> list[torch.Tensor]:
        """Feed a model the tokens of these branches that it has missed; hidden states [L, H] after them."""
        cursor = self.cursors[role]
        missed = [self._sequence(b)[cursor.length_R[b] :] for b in rows]
        return list(cursor.extend(missed, rows).split([len(tokens) for tokens in missed]))

    def _decide(self, node_B: np.ndarray, tops: dict, seen: dict[str, RouterInput]) -> np.ndarray:
        """Ask the large model where riders call it; every rider's token."""
        pos_B = np.array([len(branch.text.ids) for branch in self.branches], dtype=np.int32)
        prompt_B = np.array([branch.prompt for branch in self.branches])
        chance_B = routers.position_uniforms(self.settings.seed, self.names_P[prompt_B], pos_B)
        called_R = np.zeros(len(self.rider_R), dtype=bool)
        default_R = np.zeros(len(self.rider_R), dtype=np.int32)
        # `perfect` has to know the large model's token before it can decide
        needs_answer_R = np.array([self.riders[i].gate.rule == "perfect" for i in self.rider_R])
        for is_answered in (False, True):
            for i in np.unique(self.rider_R[needs_answer_R == is_answered]):
                mine = np.flatnonzero(self.rider_R == i)
                at, role = self.branch_R[mine], self.speaker_of[i]
                default_R[mine] = tops[role][at]
                is_mismatch_R = self.nodes.fused(node_B[at], self.method_of[i]) != default_R[mine]
                own = seen[role].take(at)
                called_R[mine] = routers.decide(self.riders[i].gate, own, chance_B[at], is_mismatch_R)
            if not is_answered:
                self._ask(self._to_ask(called_R | needs_answer_R, default_R))
        node_R = node_B[self.branch_R]
        token_R = np.where(called_R, self.nodes.fused(node_R, self.method_of[self.rider_R]), default_R)
        self.nodes.note_step(
            rider=self.rider_R,
            prompt=prompt_B[self.branch_R],
            node=node_R,
            pos=pos_B[self.branch_R],
            called=called_R,
            default_id=default_R,
        )
        return token_R

    def _to_ask(self, asks_R: np.ndarray, default_R: np.ndarray) -> np.ndarray:
        """Branches where riders ask, and those that the others' default tokens end or split, for one pass."""
        is_asked_B = np.zeros(len(self.branches), dtype=bool)
        is_asked_B[self.branch_R[asks_R]] = True
        quiet_R = ~is_asked_B[self.branch_R]
        children = self._children(self.branch_R[quiet_R], default_R[quiet_R])
        is_asked_B[children.parent_C[children.is_lost_C]] = True
        return np.flatnonzero(is_asked_B)

    def _ask(self, branches: np.ndarray) -> None:
        """Let the models that lag catch up on these branches, and fuse for the methods that ride there."""
        chosen = np.array([b for b in branches if self.branches[b].unread], dtype=np.int64)
        if not len(chosen):
            return
        for role, cursor in self.cursors.items():
            lengths = np.array([len(self._sequence(b)) for b in chosen])
            behind = chosen[self._needs(role)[chosen] & (cursor.length_R[chosen] < lengths)]
            if len(behind):
                self._read_missed(role, behind)
        unread = [node for b in chosen for node in self.branches[b].unread]
        node_N = np.array([node.node for node in unread])
        rides_NM = np.repeat(self._rides()[chosen], [len(self.branches[b].unread) for b in chosen], axis=0)
        for span in self.loaded["large"].spans(len(node_N)):
            self._fuse(node_N[span], rides_NM[span], [node.hidden for node in unread[span]])
        for b in chosen:
            self.branches[b].unread = []

    def _read_missed(self, role: str, rows: np.ndarray) -> None:
        """Let a model that lags catch up on these branches, and note its states at the unread nodes.

        It may have missed more than those: the tokens of a next question are no nodes.
        """
        begin = {b: int(self.cursors[role].length_R[b]) for b in rows}
        for b, hidden_LH in zip(rows, self._catch_up(role, rows), strict=True):
            branch = self.branches[b]
            for node in branch.unread:
                node.hidden[role] = hidden_LH[len(self.prompts[branch.prompt]) + node.pos - 1 - begin[b]]

    def _fuse(self, node_N: np.ndarray, rides_NM: np.ndarray, states: list[dict[str, torch.Tensor]]) -> None:
        """Every riding method's token at these nodes, each model's head applied once."""
        rules = [fusion.RULES[method.rule] for method in self.methods]
        rows, logits = {}, {}
        for role in self.loaded:
            needs_N = rides_NM[:, [role in rule.inputs for rule in rules]].any(axis=1)
            rows[role] = np.flatnonzero(needs_N)
            if needs_N.any():
                hidden_NH = torch.stack([states[n][role] for n in rows[role]])
                logits[role] = self.loaded[role].logits(hidden_NH)
        for m in np.flatnonzero(rides_NM.any(axis=0)):
            mine = np.flatnonzero(rides_NM[:, m])
            own = {role: lm_head.rows_of(logits[role], rows[role], mine) for role in rules[m].inputs}
            small_N = own["small"].argmax(-1).cpu().numpy() if rules[m].speaker != "small" else None
            self.nodes.note_fused(m, node_N[mine], lm_head.fused_ids(self.methods[m], own), small_N)

    def _sequence(self, branch: int) -> list[int]:
        return self.prompts[self.branches[branch].prompt] + self.branches[branch].text.ids

    def _children(self, branch_R: np.ndarray, token_R: np.ndarray) -> _Children:
        """The texts that riders on these branches go on with, one for all that choose the same token."""
        vocabulary = self.loaded["large"].vocabulary
        key_C, child_R = np.unique(branch_R * vocabulary + token_R, return_inverse=True)
        parent_C, token_C = np.divmod(key_C, vocabulary)
        parents = [self.branches[p] for p in parent_C]
        names = self.names_P[[parent.prompt for parent in parents]]
        longer = [p.text.followed_by(t) for p, t in zip(parents, token_C.tolist(), strict=True)]
        grown = self.until.advance(names, longer)
        is_ended_C = [self.until.is_finished(*child) for child in zip(names, grown, strict=True)]
        return _Children(parent_C, child_R, grown, np.array(is_ended_C, dtype=bool))

    def _move(self, token_R: np.ndarray) -> int:
        """Append the riders' tokens: split branches, end texts; returns the number of riders that ended."""
        parent_C, child_R, grown, is_ended_C = self._children(self.branch_R, token_R)
        parents = [self.branches[p] for p in parent_C]
        is_ended_R = is_ended_C[child_R]
        for rider, child in zip(self.rider_R[is_ended_R].tolist(), child_R[is_ended_R], strict=True):
            self.ends.append(FinishedText(rider, parents[child].prompt, grown[child]))
        alive = np.flatnonzero(~is_ended_C)
        self.branches = [
            _Branch(parents[child].prompt, grown[child], [*parents[child].unread]) for child in alive
        ]
        for cursor in self.cursors.values():
            cursor.select(parent_C[alive])
        self.rider_R = self.rider_R[~is_ended_R]
        self.branch_R = (np.cumsum(~is_ended_C) - 1)[child_R[~is_ended_R]]
        return int(is_ended_R.sum())
