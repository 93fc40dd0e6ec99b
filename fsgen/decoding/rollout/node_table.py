"""What was seen, fused and decided at the nodes of a tree, and the table that it amounts to.

Shape legend: B nodes of a step (one a branch), N nodes chosen, R riders of a step, M methods.
"""

import numpy as np

from fsgen.collaboration.router_input import RouterInput


class NodeTable:
    """Nodes numbered in the order of their steps; what is fused at one may become known much later."""

    def __init__(self, methods: int):
        self.count = 0
        self._fused_NM = np.full((1024, methods), -1, np.int32)
        self._small_N = np.full(1024, -1, np.int32)
        self._looks: list[dict[str, np.ndarray]] = []
        self._steps: list[dict[str, np.ndarray]] = []

    def add(self, branches: int) -> np.ndarray:
        """Numbers [B] of a step's new nodes."""
        node_B = self.count + np.arange(branches)
        self.count += branches
        if self.count > len(self._small_N):
            more = self.count
            self._fused_NM = np.pad(self._fused_NM, [(0, more), (0, 0)], constant_values=-1)
            self._small_N = np.pad(self._small_N, (0, more), constant_values=-1)
        return node_B

    def note_look(self, tops: dict[str, np.ndarray], seen: dict[str, RouterInput]) -> None:
        """What the speakers say and routers see of them at the step's nodes, role to [B]."""
        fields = {f"{role}.{name}": x for role, own in seen.items() for name, x in own._asdict().items()}
        self._looks.append(tops | fields)

    def note_fused(self, method: int, node_N: np.ndarray, fused_N: np.ndarray, small_N=None) -> None:
        """A method's tokens at these nodes, and what the small model says there where it is no speaker."""
        self._fused_NM[node_N, method] = fused_N
        if small_N is not None:
            self._small_N[node_N] = small_N

    def fused(self, node_N: np.ndarray, method) -> np.ndarray:
        """Fused tokens, -1 where nobody has asked yet."""
        return self._fused_NM[node_N, method]

    def note_step(self, **columns: np.ndarray) -> None:
        """What every rider decided: rider, prompt, node, pos, called, default_id, [R] each."""
        self._steps.append(columns)

    def decisions(self, method_of: np.ndarray, speaker_of: np.ndarray) -> dict[str, np.ndarray]:
        """All steps' columns joined with what was seen and fused at their nodes; of riders by number."""
        if not self._steps:
            return {}
        columns = _joined(self._steps)
        looks = _joined(self._looks)
        node_N, rider_N = columns.pop("node"), columns["rider"]
        speaks_N = speaker_of[rider_N]
        columns["fused_id"] = self._fused_NM[node_N, method_of[rider_N]]
        columns["small_id"] = np.where(speaks_N == "small", columns["default_id"], self._small_N[node_N])
        for name in RouterInput._fields:
            columns[name] = np.empty((len(node_N), *looks[f"{speaks_N[0]}.{name}"].shape[1:]), np.float32)
            for role in np.unique(speaks_N):
                mine = speaks_N == role
                columns[name][mine] = looks[f"{role}.{name}"][node_N[mine]]
        return columns


def _joined(parts: list[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
