"""Nodes of a prefix tree: what routers saw and methods fused there, and the decisions that this makes.

Shape legend: B nodes of a step (one a branch), N chosen nodes or decisions, R runs of a step, M methods.
"""

from collections import defaultdict
from typing import NamedTuple

import numpy as np

from fsgen.collaboration.router_input import RouterInput, blank_router_input
from fsgen.config.roles import SMALL
from fsgen.decoding.rollout.decisions import Decisions, concatenate

UNKNOWN = -1
INITIAL_NODES = 1024


class StepDecisions(NamedTuple):
    """What the runs of one step decided."""

    run_R: np.ndarray
    prompt_R: np.ndarray
    node_R: np.ndarray
    pos_R: np.ndarray
    called_R: np.ndarray
    default_id_R: np.ndarray


class NodeTable:
    """Nodes numbered in the order of their steps; fused tokens may be filled in many steps later."""

    def __init__(self, methods: int):
        self.count = 0
        self._fused_id_NM = np.full((INITIAL_NODES, methods), UNKNOWN, np.int32)
        self._small_id_N = np.full(INITIAL_NODES, UNKNOWN, np.int32)
        self._seen: dict[str, list[RouterInput]] = defaultdict(list)
        self._steps: list[StepDecisions] = []

    def add_nodes(self, branches: int) -> np.ndarray:
        """Numbers [B] of the new nodes of a step."""
        node_B = self.count + np.arange(branches)
        self.count += branches
        if self.count > len(self._small_id_N):
            more = self.count
            self._fused_id_NM = np.pad(self._fused_id_NM, [(0, more), (0, 0)], constant_values=UNKNOWN)
            self._small_id_N = np.pad(self._small_id_N, (0, more), constant_values=UNKNOWN)
        return node_B

    def add_router_input(self, role: str, seen: RouterInput) -> None:
        """Store what routers see of a default model at the new nodes; once a step for every default role."""
        self._seen[role].append(seen)

    def set_fused(
        self, method: int, node_N: np.ndarray, fused_id_N: np.ndarray, small_id_N: np.ndarray | None = None
    ) -> None:
        """Store a method's tokens at some nodes, and the small model's where it is not the default one."""
        self._fused_id_NM[node_N, method] = fused_id_N
        if small_id_N is not None:
            self._small_id_N[node_N] = small_id_N

    def fused_ids(self, node_N: np.ndarray, method: int | np.ndarray) -> np.ndarray:
        """A method's tokens at some nodes, UNKNOWN where nothing has been fused."""
        return self._fused_id_NM[node_N, method]

    def add_step(self, step: StepDecisions) -> None:
        """Store what the runs of a step decided."""
        self._steps.append(step)

    def decisions(self, method_of_run: np.ndarray, default_role_of_run: np.ndarray) -> Decisions | None:
        """The decisions of all steps with what was seen and fused at their nodes; None without steps."""
        if not self._steps:
            return None
        run_N, prompt_N, node_N, pos_N, called_N, default_id_N = concatenate(self._steps)
        role_N = default_role_of_run[run_N]
        return Decisions(
            run_N=run_N,
            prompt_N=prompt_N,
            pos_N=pos_N,
            called_N=called_N,
            default_id_N=default_id_N,
            small_id_N=np.where(role_N == SMALL, default_id_N, self._small_id_N[node_N]),
            fused_id_N=self._fused_id_NM[node_N, method_of_run[run_N]],
            seen=self._router_input(role_N, node_N),
        )

    def _router_input(self, role_N: np.ndarray, node_N: np.ndarray) -> RouterInput:
        """What routers saw at these nodes, each of its own default model."""
        width = self._seen[role_N[0]][0].top_logits_NK.shape[1]
        chosen = blank_router_input(len(node_N), width)
        for role in np.unique(role_N):
            rows = np.flatnonzero(role_N == role)
            values = concatenate(self._seen[role]).take(node_N[rows])
            for array_N, values_N in zip(chosen, values, strict=True):
                array_N[rows] = values_N
        return chosen
