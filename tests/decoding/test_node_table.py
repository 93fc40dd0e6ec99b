"""The node table joins what runs decided with what was seen and fused at their nodes, whenever that was."""

import numpy as np

from fsgen.collaboration.router_input import RouterInput
from fsgen.decoding.rollout.decisions import concatenate
from fsgen.decoding.rollout.node_table import INITIAL_NODES, UNKNOWN, NodeTable, StepDecisions

SMALL, TUNED = 0, 1  # a run of each default model, which is also the number of its method
METHOD_OF_RUN, ROLE_OF_RUN = np.array([SMALL, TUNED]), np.array(["small", "tuned"])


def seen(value: float, nodes: int) -> RouterInput:
    """The same record at all nodes of a step."""
    array = np.full(nodes, value, np.float32)
    return RouterInput(np.stack([array, array - 1], axis=1), array, array)


def add_step(table: NodeTable, default_ids: list[int], called: list[bool], value: float) -> np.ndarray:
    """A step of both runs, each on a branch of its own."""
    node_B = table.add_nodes(2)
    table.add_router_input("small", seen(value, 2))
    table.add_router_input("tuned", seen(-value, 2))
    pos_R = np.full(2, len(node_B), np.int32)
    table.add_step(
        StepDecisions(
            np.array([0, 1]), np.zeros(2, int), node_B, pos_R, np.array(called), np.array(default_ids)
        )
    )
    return node_B


def test_fused_tokens_may_come_steps_later():
    """Each run gets its own method's token, the small model's, and the record of its own default model."""
    table = NodeTable(methods=2)
    first = add_step(table, [4, 5], [False, False], value=1.0)
    second = add_step(table, [6, 7], [True, False], value=2.0)
    assert table.fused_ids(first, SMALL).tolist() == [UNKNOWN, UNKNOWN]
    table.set_fused(SMALL, np.array([first[0], second[0]]), np.array([10, 11]))
    table.set_fused(TUNED, np.array([first[1], second[1]]), np.array([12, 13]), np.array([14, 15]))

    decisions = table.decisions(METHOD_OF_RUN, ROLE_OF_RUN)

    assert decisions.run_N.tolist() == [0, 1, 0, 1]
    assert decisions.called_N.tolist() == [False, False, True, False]
    assert decisions.default_id_N.tolist() == [4, 5, 6, 7]
    assert decisions.small_id_N.tolist() == [4, 14, 6, 15]
    assert decisions.fused_id_N.tolist() == [10, 12, 11, 13]
    assert decisions.seen.entropy_N.tolist() == [1.0, -1.0, 2.0, -2.0]
    assert decisions.seen.top_logits_NK.tolist() == [[1, 0], [-1, -2], [2, 1], [-2, -3]]


def test_it_grows_and_may_stay_empty():
    """More nodes than were allotted keep what is known of the earlier ones."""
    table = NodeTable(methods=1)
    assert table.decisions(METHOD_OF_RUN, ROLE_OF_RUN) is None
    first = table.add_nodes(INITIAL_NODES)
    table.set_fused(0, first[-1:], np.array([3]))
    more = table.add_nodes(5)

    assert more.tolist() == [*range(INITIAL_NODES, INITIAL_NODES + 5)]
    assert table.fused_ids(np.array([first[-1], more[-1]]), 0).tolist() == [3, UNKNOWN]


def test_named_arrays_are_joined_field_by_field():
    """Also those that hold such tuples themselves."""
    parts = [seen(1.0, 2), seen(3.0, 1)]

    joined = concatenate(parts)

    assert isinstance(joined, RouterInput)
    assert joined.entropy_N.tolist() == [1.0, 1.0, 3.0]
    assert joined.top_logits_NK.shape == (3, 2)
