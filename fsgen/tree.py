"""The tree of prefixes: policies ride on branches, and a branch is stepped once for all its riders.

Shape legend: B branches (distinct prefixes) side by side, R riders on them (a policy on a prompt), C children
of the branches, N nodes (a branch at a position), M methods, H hidden width, V usable vocabulary.
The models that speak by default take every step. The large one lags behind and catches up, in one pass
over all that it has missed, where a rider calls it, where a branch splits and where one ends: it reads
every node once, and so what it would have said where nobody asked is known as well.
"""

from collections import deque
from dataclasses import dataclass, field, replace
from itertools import groupby
from typing import NamedTuple

import numpy as np
import torch

from fsgen import console, fusion, records, routers
from fsgen.cursor import Cursor
from fsgen.models import Loaded
from fsgen.policies import Method
from fsgen.settings import Settings
from fsgen.texts import Ending
from fsgen.trunks import Rider


class Start(NamedTuple):
    """A rider that the models have to take on: which one, on which prompt, and its text so far."""

    rider: int
    prompt: int
    ids: list[int]


class End(NamedTuple):
    """A rider's finished text."""

    rider: int
    prompt: int
    ids: list[int]
    finish_reason: str


class Grown(NamedTuple):
    """What the tree has found out: decisions by rider and position, texts, and the work it took."""

    decisions: dict[str, np.ndarray]
    ends: list[End]
    positions: dict[str, int]
    """Role to generated positions that its model processed."""
    prompt_positions: int
    """Prompt positions that each model processed."""


@dataclass
class _Branch:
    prompt: int
    ids: list[int]
    unread: list[tuple[int, dict[str, torch.Tensor]]] = field(default_factory=list)
    """Nodes that the large model has not read, with the speakers' hidden states [H] there."""


class Tree:
    """Riders' texts from where they start to their ends, at most about `rows` branches side by side."""

    def __init__(
        self,
        loaded: dict[str, Loaded],
        prompts: dict[str, list[int]],
        riders: list[Rider],
        until: Ending,
        settings: Settings,
        rows: int,
    ):
        self.loaded, self.riders, self.until, self.settings, self.rows = loaded, riders, until, settings, rows
        self.names_P, self.prompts = np.array(list(prompts)), list(prompts.values())
        self.cursors = {role: Cursor(model, settings.compute.read_tokens) for role, model in loaded.items()}
        self.speakers = [role for role in loaded if role != "large"]
        methods = {rider.policy.method: rider.method for rider in riders}
        self.methods: list[Method] = list(methods.values())
        self.method_of = np.array([list(methods).index(rider.policy.method) for rider in riders])
        self.branches: list[_Branch] = []
        self.rider_R, self.branch_R = np.zeros(0, np.int64), np.zeros(0, np.int64)
        self.looks: list[dict[str, np.ndarray]] = []
        self.fused_NM = np.full((1024, len(methods)), -1, np.int32)
        self.nodes = 0
        self.steps: list[dict[str, np.ndarray]] = []
        self.ends: list[End] = []
        self.prompt_positions = 0

    @torch.inference_mode()
    def grow(self, starts: list[Start], bar: console.Bar) -> Grown:
        """Run every rider to its end."""
        starts = sorted(starts, key=lambda start: (start.prompt, start.ids[:-1], start.ids))
        waiting = deque([*group] for _, group in groupby(starts, key=lambda start: start.prompt))
        while waiting or self.branches:
            self._admit(waiting)
            bar.advance(tokens=len(self.branches))
            node_B, seen = self._look()
            token_R = self._decide(node_B, seen)
            bar.advance(self._move(token_R))
        generated = {role: c.positions - self.prompt_positions for role, c in self.cursors.items()}
        return Grown(self._decisions(), self.ends, generated, self.prompt_positions)

    def _admit(self, waiting: deque[list[Start]]) -> None:
        """Let prompts enter, all branches of one at once, where a quarter of the rows is free."""
        room = self.rows - len(self.branches)
        if self.branches and room < max(1, self.rows // 4):
            return
        trunks, rows, lengths, held = [], [], [], len(self.branches)
        while waiting and room > 0:
            group = waiting.popleft()
            prompt = self.prompts[group[0].prompt]
            texts = [[*ids] for ids, _ in groupby(start.ids for start in group)]
            room -= len(texts)
            # all but the last token, which is the first that the loop feeds
            entered = [(prompt + ids)[:-1] for ids in texts]
            cover = _cover(entered)
            self._board(group, texts)
            for i in sorted(set(cover)):
                self.prompt_positions += len(prompt) - 1
                rows += [held + len(trunks)] * cover.count(i)
                trunks.append(entered[i])
            lengths += map(len, entered)
        if trunks:
            for cursor in self.cursors.values():
                cursor.enter(trunks)
                kept = [*cursor.length_R[:held]]
                cursor.select(np.array([*range(held), *rows]), np.array([*kept, *lengths]))

    def _board(self, group: list[Start], texts: list[list[int]]) -> None:
        """Put the riders of one prompt on new branches."""
        place = {tuple(ids): len(self.branches) + i for i, ids in enumerate(texts)}
        self.branches += [_Branch(group[0].prompt, ids) for ids in texts]
        self.rider_R = np.append(self.rider_R, [start.rider for start in group])
        self.branch_R = np.append(self.branch_R, [place[tuple(start.ids)] for start in group])

    def _look(self) -> tuple[np.ndarray, dict[str, routers.Speaker]]:
        """Step the speakers onto new nodes; the nodes [B], and what routers see there."""
        last = [[b.ids[-1] if b.ids else self.prompts[b.prompt][-1]] for b in self.branches]
        hidden = {role: self.cursors[role].extend(last) for role in self.speakers}
        node_B = self.nodes + np.arange(len(self.branches))
        self.nodes += len(node_B)
        if self.nodes > len(self.fused_NM):
            more = np.full((self.nodes, self.fused_NM.shape[1]), -1, np.int32)
            self.fused_NM = np.concatenate([self.fused_NM, more])
        for i, branch in enumerate(self.branches):
            branch.unread.append((int(node_B[i]), {role: hidden[role][i] for role in hidden}))
        look, seen = {}, {}
        for role, hidden_BH in hidden.items():
            look[role], seen[role] = _see(self.loaded[role], hidden_BH, self.settings)
            look |= {f"{role}.{name}": array for name, array in seen[role]._asdict().items()}
        self.looks.append(look)
        return node_B, seen

    def _decide(self, node_B: np.ndarray, seen: dict[str, routers.Speaker]) -> np.ndarray:
        """Ask the large model where riders call it; every rider's token."""
        pos_B = np.array([len(branch.ids) for branch in self.branches], dtype=np.int32)
        names_B = self.names_P[[branch.prompt for branch in self.branches]]
        chance_B = routers.chance(self.settings.seed, names_B, pos_B)
        called_R = np.zeros(len(self.rider_R), dtype=bool)
        default_R = np.zeros(len(self.rider_R), dtype=np.int32)
        # `perfect` has to know the large model's token before it can decide
        needs_answer_R = np.array([self.riders[i].gate.rule == "perfect" for i in self.rider_R])
        for is_answered in (False, True):
            for i in np.unique(self.rider_R[needs_answer_R == is_answered]):
                mine = np.flatnonzero(self.rider_R == i)
                at = self.branch_R[mine]
                role = fusion.speaker(self.riders[i].method)
                default_R[mine] = self.looks[-1][role][at]
                fused_R = self.fused_NM[node_B[at], self.method_of[i]]
                own = routers.Speaker(*(array_B[at] for array_B in seen[role]))
                called_R[mine] = routers.calls(
                    self.riders[i].gate, own, chance_B[at], fused_R != default_R[mine]
                )
            if not is_answered:
                self._ask(np.unique(self.branch_R[called_R | needs_answer_R]))
        node_R = node_B[self.branch_R]
        token_R = np.where(called_R, self.fused_NM[node_R, self.method_of[self.rider_R]], default_R)
        prompt_R = np.array([self.branches[b].prompt for b in self.branch_R])
        step = {"rider": self.rider_R, "prompt": prompt_R, "node": node_R, "pos": pos_B[self.branch_R]}
        self.steps.append(step | {"called": called_R, "token_id": token_R, "default_id": default_R})
        return token_R

    def _ask(self, branches: np.ndarray) -> None:
        """Let the large model catch up on these branches, and fuse for the methods that ride there."""
        chosen = np.array([b for b in branches if self.branches[b].unread], dtype=np.int64)
        if not len(chosen):
            return
        large = self.cursors["large"]
        missed = [self._sequence(b)[large.length_R[b] :] for b in chosen]
        unread = [entry for b in chosen for entry in self.branches[b].unread]
        hidden = {role: torch.stack([states[role] for _, states in unread]) for role in self.speakers}
        hidden["large"] = large.extend(missed, chosen)
        rides_BM = np.zeros((len(self.branches), len(self.methods)), dtype=bool)
        rides_BM[self.branch_R, self.method_of[self.rider_R]] = True
        rides_NM = np.repeat(rides_BM[chosen], [len(tokens) for tokens in missed], axis=0)
        node_N = np.array([node for node, _ in unread])
        for span in self.loaded["large"].spans(len(node_N)):
            self._fuse(node_N[span], rides_NM[span], {role: h[span] for role, h in hidden.items()})
        for b in chosen:
            self.branches[b].unread = []

    def _fuse(self, node_N: np.ndarray, rides_NM: np.ndarray, hidden: dict[str, torch.Tensor]) -> None:
        riding = np.flatnonzero(rides_NM.any(axis=0))
        inputs = {role for m in riding for role in fusion.RULES[self.methods[m].rule].inputs}
        logits = {role: self.loaded[role].logits(hidden[role]) for role in inputs}
        for m in riding:
            rows = torch.from_numpy(np.flatnonzero(rides_NM[:, m]))
            own = {role: x if len(rows) == len(x) else x[rows.to(x.device)] for role, x in logits.items()}
            self.fused_NM[node_N[rides_NM[:, m]], m] = _fused_ids(self.methods[m], own)

    def _sequence(self, branch: int) -> list[int]:
        return self.prompts[self.branches[branch].prompt] + self.branches[branch].ids

    def _move(self, token_R: np.ndarray) -> int:
        """Append the riders' tokens: split branches, end texts; returns the number of riders that ended."""
        vocabulary = self.loaded["large"].vocabulary
        key_C, child_R = np.unique(self.branch_R * vocabulary + token_R, return_inverse=True)
        parent_C, token_C = np.divmod(key_C, vocabulary)
        grown = [[*self.branches[p].ids, t] for p, t in zip(parent_C, token_C.tolist(), strict=True)]
        reasons = self.until.reasons(grown)
        is_ended_C = np.array([reason is not None for reason in reasons])
        is_only_C = np.bincount(parent_C)[parent_C] == 1
        self._ask(np.unique(parent_C[is_ended_C | ~is_only_C]))  # what it missed, while its cache is at hand
        is_ended_R = is_ended_C[child_R]
        for rider, child in zip(self.rider_R[is_ended_R].tolist(), child_R[is_ended_R], strict=True):
            prompt = self.branches[parent_C[child]].prompt
            self.ends.append(End(rider, prompt, grown[child], reasons[child]))
        alive = np.flatnonzero(~is_ended_C)
        parents = [self.branches[parent_C[child]] for child in alive]
        self.branches = [
            _Branch(p.prompt, grown[child], [*p.unread]) for p, child in zip(parents, alive, strict=True)
        ]
        for cursor in self.cursors.values():
            cursor.select(parent_C[alive])
        self.rider_R = self.rider_R[~is_ended_R]
        self.branch_R = (np.cumsum(~is_ended_C) - 1)[child_R[~is_ended_R]]
        return int(is_ended_R.sum())

    def _decisions(self) -> dict[str, np.ndarray]:
        """Columns by rider and position: the steps, joined with what was seen and fused at their nodes."""
        if not self.steps:
            return {}
        steps = {name: np.concatenate([step[name] for step in self.steps]) for name in self.steps[0]}
        looks = {name: np.concatenate([look[name] for look in self.looks]) for name in self.looks[0]}
        node_N, rider_N = steps.pop("node"), steps["rider"]
        steps["fused_id"] = self.fused_NM[node_N, self.method_of[rider_N]]
        steps["small_id"] = looks["small"][node_N]
        speaks = np.array([fusion.speaker(rider.method) for rider in self.riders])[rider_N]
        for name in routers.Speaker._fields:
            values = {role: looks[f"{role}.{name}"][node_N] for role in self.speakers}
            steps[name] = np.select([speaks == role for role in values], list(values.values()))
        return steps


def _cover(texts: list[list[int]]) -> list[int]:
    """For each of these sorted texts, the index of the last that begins with it: one pass for both."""
    cover = [*range(len(texts))]
    for i in reversed(range(len(texts) - 1)):
        if texts[cover[i + 1]][: len(texts[i])] == texts[i]:
            cover[i] = cover[i + 1]
    return cover


def _see(loaded: Loaded, hidden_BH: torch.Tensor, settings: Settings) -> tuple[np.ndarray, routers.Speaker]:
    """Top token of every branch and what routers see of it."""
    dump = replace(settings.dump, k_min=2, k_max=2)
    spans = loaded.spans(len(hidden_BH))
    seen = records.join([records.record(loaded.logits(hidden_BH[span]), dump) for span in spans])
    speaker = routers.Speaker(seen.max_logit_N, seen.top_logits_NK[:, 1], seen.logsumexp_N, seen.entropy_N)
    return seen.top_ids_NK[:, 0], speaker


def _fused_ids(method: Method, logits: dict[str, torch.Tensor]) -> np.ndarray:
    """Fused tokens over the full vocabulary; torch's argmax takes the lowest id of a tie."""
    large, small, tuned = (
        x if x is None else x.double() for x in map(logits.get, ("large", "small", "tuned"))
    )
    may_win_NV = fusion.allowed(method, large, large.amax(-1, keepdim=True))
    scores_NV = fusion.score(method, large, small, tuned).masked_fill(~may_win_NV, -torch.inf)
    return scores_NV.argmax(-1).cpu().numpy().astype(np.int32)
