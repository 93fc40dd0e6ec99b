"""Fused tokens at nodes of a prefix tree, from the hidden states that the models left there.

Shape legend: N nodes, M methods.
"""

import numpy as np
import torch

from fsgen.config.policies import Method
from fsgen.config.roles import SMALL
from fsgen.decoding.lm_head import NodeLogits, fused_ids
from fsgen.decoding.rollout.branches import PendingNode
from fsgen.decoding.rollout.node_table import NodeTable
from fsgen.models.loaded_model import LoadedModel


def fuse_nodes(
    loaded: dict[str, LoadedModel],
    methods: list[Method],
    pending: list[PendingNode],
    uses_NM: np.ndarray,
    nodes: NodeTable,
) -> None:
    """Store in `nodes` every method's tokens at the pending nodes where it is in use.

    The nodes must hold hidden states of all models that their methods read. Logits of all of them are in
    memory at once.
    """
    logits = _head_logits(loaded, methods, pending, uses_NM)
    node_N = np.array([node.node for node in pending])
    for m in np.flatnonzero(uses_NM.any(axis=0)):
        rows = np.flatnonzero(uses_NM[:, m])
        rule = methods[m].definition
        inputs = {role: logits[role].take(rows) for role in rule.inputs}
        is_default = rule.default_role == SMALL
        small_id_N = None if is_default else inputs["small"].argmax(-1).cpu().numpy()
        nodes.set_fused(m, node_N[rows], fused_ids(methods[m], inputs), small_id_N)


def _head_logits(
    loaded: dict[str, LoadedModel], methods: list[Method], pending: list[PendingNode], uses_NM: np.ndarray
) -> dict[str, NodeLogits]:
    """Role to logits at the nodes where some method reads them; every head is applied once."""
    logits = {}
    for role, model in loaded.items():
        reads_M = np.array([role in method.definition.inputs for method in methods])
        rows = np.flatnonzero(uses_NM[:, reads_M].any(axis=1))
        if len(rows):
            hidden_NH = torch.stack([pending[row].hidden[role] for row in rows])
            logits[role] = NodeLogits(rows, model.logits(hidden_NH))
    return logits
