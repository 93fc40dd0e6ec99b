"""Tests of `fusion`: on a whole list it is plain arithmetic, and on a short one a proof is a proof.

Shape legend: N positions, V vocabulary, K ids of a padded list.
"""

import math

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from fsgen.collaboration import fusion
from fsgen.config.policies import Method, method_table
from fsgen.config.registry import RULES
from fsgen.config.schema import DumpConfig
from fsgen.decoding import lm_head
from fsgen.models import records
from tests.collaboration import conftest as reference

VALUES = {"alpha": [0.05, 0.1, 0.5, 1.0], "tau": [0.3, 0.5, 1.0, 2.0], "beta": [0.0, 0.3, 0.5, 1.0, 2.0]}
PROXY_VALUES = {"alpha": [0.0, 0.3, 0.5, 1.0, 2.0]}
halves = st.integers(-6, 6).map(lambda steps: steps / 2)  # few values, so that ties are frequent
any_floats = st.floats(-20, 20, width=32)


def methods(*rules):
    """Methods of these rules, each parameter from a short list."""
    return st.sampled_from(rules).flatmap(
        lambda rule: st.fixed_dictionaries(
            {
                name: st.sampled_from((PROXY_VALUES if rule == "proxy" else VALUES)[name])
                for name in method_table({rule: {}})[rule].parameters
            }
        ).map(lambda parameters: Method(rule=rule, parameters=parameters))
    )


@st.composite
def logits(draw, elements=halves):
    """Float32 logits of the large, small and tuned model, [N, V] each."""
    shape = draw(st.tuples(st.integers(1, 4), st.integers(2, 12)))
    return [draw(arrays.arrays(np.float32, shape, elements=elements, fill=st.nothing())) for _ in range(3)]


def dumped(large_NV, small_NV, tuned_NV, dump):
    """The lists that the stages would have stored of these logits."""
    large, small, tuned = (torch.from_numpy(x_NV.copy()) for x_NV in (large_NV, small_NV, tuned_NV))
    ids_NK, values_NK, outside_N = (x.numpy() for x in records.top_list(large, dump))
    return fusion.TopLists(
        ids_NK=ids_NK,
        large_NK=values_NK,
        small_NK=records.gather(small, ids_NK),
        tuned_NK=records.gather(tuned, ids_NK),
        max_tuned_minus_small_outside_N=records.largest_gain(tuned, small, ids_NK),
        outside_N=outside_N,
    )


def whole(large_NV, small_NV, tuned_NV):
    """Lists that hold every id."""
    size = large_NV.shape[1]
    return dumped(
        large_NV,
        small_NV,
        tuned_NV,
        DumpConfig(nats_below_top=0.0, min_top_k=size, max_top_k=size, prompts_per_shard=1),
    )


def slowly_fused(method, world):
    """The fused token of every position, id by id in plain floats."""
    return [reference.fuse(method.rule, method.parameters, *rows) for rows in zip(*world, strict=True)]


def lowest_argmax(values_NV):
    return values_NV.argmax(axis=1).tolist()  # numpy returns the first of equals


@settings(deadline=None)
@given(methods(*RULES), logits(st.one_of(halves, any_floats)))
def test_a_whole_list_gives_the_argmax_over_the_vocabulary_and_is_proven(method, world):
    """Every rule equals a loop over ids in plain floats, ties to the lowest id."""
    fused_N, proven_N = fusion.fuse(method, whole(*world))

    assert slowly_fused(method, world) == fused_N.tolist()
    assert proven_N.all()


@settings(deadline=None)
@given(methods(*RULES), logits(st.one_of(halves, any_floats, st.floats(-1e4, 1e4, width=32))))
def test_the_closed_loop_fuses_as_a_loop_over_ids_does(method, world):
    """On whole rows of logits, of which a masked rule scores the plausible ids alone."""
    rows = {
        role: torch.from_numpy(x_NV) for role, x_NV in zip(("large", "small", "tuned"), world, strict=True)
    }

    assert lm_head.fused_ids(method, rows).tolist() == slowly_fused(method, world)


@settings(deadline=None)
@given(
    methods(*RULES),
    logits(st.one_of(halves, any_floats)),
    st.integers(1, 12),
    st.integers(1, 12),
    st.sampled_from([0.5, 1.0, 2.5, 6.0]),
)
def test_what_a_short_list_proves_holds_over_the_vocabulary(method, world, min_top_k, max_top_k, depth):
    """Where a row is certified, the token is that of all ids, however the list was cut."""
    lists = dumped(
        *world,
        DumpConfig(
            nats_below_top=depth,
            min_top_k=min(min_top_k, max_top_k),
            max_top_k=max_top_k,
            prompts_per_shard=1,
        ),
    )

    fused_N, proven_N = fusion.fuse(method, lists)

    expected_N = np.array(slowly_fused(method, world))
    assert expected_N[proven_N].tolist() == fused_N[proven_N].tolist()


@settings(deadline=None)
@given(logits(), st.integers(1, 12), methods("li2022", "obrien2023", "average"))
def test_a_masked_rule_is_proven_exactly_when_no_plausible_id_is_left_out(world, max_top_k, method):
    """Whatever the list's last id is: the first that it leaves out decides."""
    large_NV = world[0].astype(np.float64)
    assume(max_top_k < large_NV.shape[1])
    floor_N = large_NV.max(axis=1) + math.log(method.parameters["alpha"])
    outside_N = -np.sort(-large_NV, axis=1)[:, max_top_k]

    _, proven_N = fusion.fuse(
        method,
        dumped(
            *world, DumpConfig(nats_below_top=50.0, min_top_k=1, max_top_k=max_top_k, prompts_per_shard=1)
        ),
    )

    assert proven_N.tolist() == (outside_N < floor_N).tolist()


@settings(deadline=None)
@given(logits(), st.integers(1, 12), methods("proxy"))
def test_a_proxy_winner_far_above_any_outsider_is_proven(world, max_top_k, method):
    """The proof fails at most where an outsider at the largest logit left out could come within 1e-4."""
    large_NV, small_NV, tuned_NV = (x_NV.astype(np.float64) for x_NV in world)
    lists = dumped(
        *world, DumpConfig(nats_below_top=50.0, min_top_k=1, max_top_k=max_top_k, prompts_per_shard=1)
    )
    alpha = method.parameters["alpha"]

    _, proven_N = fusion.fuse(method, lists)

    for row, ids_K in enumerate(lists.ids_NK):
        outside = sorted(set(range(large_NV.shape[1])) - set(ids_K.tolist()))
        if not outside:
            continue
        gain_V = tuned_NV[row] - small_NV[row]
        best = (large_NV[row] + alpha * gain_V)[ids_K].max()
        rival = large_NV[row, outside].max() + alpha * gain_V[outside].max()
        if abs(best - rival) > 1e-4:
            assert proven_N[row] == (best > rival)
        elif best == rival and alpha:
            assert not proven_N[row]


@pytest.mark.parametrize("shape", ["peaked", "flat", "tied", "banned"])
@pytest.mark.parametrize("rule", RULES)
def test_a_certificate_is_never_wrong_on_thousands_of_positions(rule, shape):
    """Peaked, flat and tied logits, and ids banned by -inf, at every length of list."""
    world = draw_world(shape, positions=3000, vocabulary=24, seed=len(rule))
    parameters = method_table({rule: {}})[rule].parameters
    method = Method(rule=rule, parameters=parameters)
    expected_N = np.array(slowly_fused(method, world))
    shares = []

    for max_top_k in (1, 2, 4, 8, 16, 23, 24):
        lists = dumped(
            *world,
            DumpConfig(
                nats_below_top=3.0, min_top_k=min(2, max_top_k), max_top_k=max_top_k, prompts_per_shard=1
            ),
        )
        fused_N, proven_N = fusion.fuse(method, lists)

        assert np.array_equal(expected_N[proven_N], fused_N[proven_N])
        shares.append(proven_N.mean())
    assert shares == sorted(shares)
    if (rule, shape) != ("proxy", "banned"):  # there f - s is undefined, and nothing rests on it
        assert shares[-1] > 0.2


def draw_world(shape, positions, vocabulary, seed):
    """Logits of three related models, float32 [N, V] each."""
    generator = np.random.default_rng(seed)
    scale = {"peaked": 8.0, "flat": 0.3, "tied": 1.0, "banned": 2.0}[shape]
    base_NV = scale * generator.standard_normal((positions, vocabulary))
    world = [base_NV + 0.5 * scale * generator.standard_normal(base_NV.shape) for _ in range(3)]
    if shape == "tied":
        world = [x_NV.round() for x_NV in world]
    if shape == "banned":
        is_banned_NV = generator.random(base_NV.shape) < 0.3
        is_banned_NV[:, 0] = False
        world = [np.where(is_banned_NV, -np.inf, x_NV) for x_NV in world]
    return [x_NV.astype(np.float32) for x_NV in world]


def test_a_tie_that_reaches_outside_the_list_proves_nothing():
    """Ids 1 and 0 tie under proxy at 3, and only 1 is listed; with more in hand, 1 is proven."""
    large_NV = np.array([[1.0, 2.0, 0.0], [1.0, 2.0, 0.0]], dtype=np.float32)
    small_NV = np.zeros((2, 3), dtype=np.float32)
    tuned_NV = np.array([[2.0, 1.0, 0.0], [0.5, 2.0, 0.0]], dtype=np.float32)
    method = Method(rule="proxy", parameters={"alpha": 1.0})

    fused_N, proven_N = fusion.fuse(
        method,
        dumped(
            large_NV,
            small_NV,
            tuned_NV,
            DumpConfig(nats_below_top=0.5, min_top_k=1, max_top_k=2, prompts_per_shard=1),
        ),
    )

    assert fused_N.tolist() == [1, 1]
    assert slowly_fused(method, (large_NV, small_NV, tuned_NV)) == [0, 1]
    assert proven_N.tolist() == [False, True]


def test_a_gain_that_float32_rounds_down_proves_nothing():
    """Id 1 wins by 2^-26, which its stored gain of 1 has lost, and only id 0 is listed."""
    large_NV, small_NV = (
        np.zeros((1, 2), dtype=np.float32),
        np.array([[-(2.0**-26), -(2.0**-25)]], np.float32),
    )
    world = large_NV, small_NV, np.ones((1, 2), dtype=np.float32)
    method = Method(rule="proxy", parameters={"alpha": 1.0})

    fused_N, proven_N = fusion.fuse(
        method, dumped(*world, DumpConfig(nats_below_top=0.5, min_top_k=1, max_top_k=1, prompts_per_shard=1))
    )

    assert slowly_fused(method, world) == [1]
    assert fused_N.tolist() == [0]
    assert proven_N.tolist() == [False]


@settings(deadline=None)
@given(logits())
def test_proxy_without_weight_and_average_without_the_small_model_are_the_large_one(world):
    """Proxy at alpha 0, average at beta 1 and both oracle rules say argmax l."""
    large_NV = world[0]
    made = [
        Method(rule="oracle", parameters={}),
        Method(rule="speculative", parameters={}),
        Method(rule="proxy", parameters={"alpha": 0.0}),
        Method(rule="average", parameters={"alpha": 0.1, "beta": 1.0}),
        Method(rule="obrien2023", parameters={"alpha": 0.1, "beta": 0.0}),
    ]

    for method in made:
        assert lowest_argmax(large_NV) == fusion.fuse(method, whole(*world))[0].tolist()


@settings(deadline=None)
@given(logits(), st.sampled_from(VALUES["alpha"]))
def test_average_without_the_large_model_is_the_small_ones_best_inside_the_mask(world, alpha):
    """At beta 0 the large model only says which ids are plausible."""
    large_NV, small_NV, _ = world
    plausible_NV = large_NV >= large_NV.max(axis=1, keepdims=True) + math.log(alpha)

    fused_N, _ = fusion.fuse(Method(rule="average", parameters={"alpha": alpha, "beta": 0.0}), whole(*world))

    assert lowest_argmax(np.where(plausible_NV, small_NV, -np.inf)) == fused_N.tolist()


@settings(deadline=None)
@given(logits(), st.sampled_from(VALUES["tau"]))
def test_a_mask_at_the_top_lets_only_top_ids_win(world, tau):
    """Contrastive decoding with alpha 1 chooses among the large model's ties what the small likes least."""
    large_NV, small_NV, _ = world
    top_NV = large_NV == large_NV.max(axis=1, keepdims=True)

    fused_N, _ = fusion.fuse(Method(rule="li2022", parameters={"alpha": 1.0, "tau": tau}), whole(*world))

    assert lowest_argmax(np.where(top_NV, -small_NV, -np.inf)) == fused_N.tolist()


@pytest.mark.parametrize("kept", [None, 1, 3, 8])
@settings(deadline=None)
@given(world=logits(st.one_of(halves, any_floats)))
def test_acceptance_bounds_hold_the_sum_of_the_smaller_probabilities(kept, world):
    """They contain it up to float32, and close on it when the list is the whole vocabulary."""
    size = world[0].shape[1]
    width = min(kept or size, size)
    lists = dumped(
        *world, DumpConfig(nats_below_top=50.0, min_top_k=width, max_top_k=width, prompts_per_shard=1)
    )
    logits_NV = [x_NV.astype(np.float64) for x_NV in world[:2]]
    sums_N = [np.log(np.exp(x_NV).sum(axis=1)) for x_NV in logits_NV]
    p_NV, q_NV = (np.exp(x_NV - z_N[:, None]) for x_NV, z_N in zip(logits_NV, sums_N, strict=True))
    true_N = np.minimum(p_NV, q_NV).sum(axis=1)

    low_N, high_N = fusion.acceptance_bounds(lists, *(z_N.astype(np.float32) for z_N in sums_N)).T

    assert (low_N <= high_N).all()
    assert (low_N <= true_N + 1e-5).all()
    assert (high_N >= true_N - 1e-5).all()
    if width == size:
        assert np.array_equal(low_N, high_N)
        assert np.allclose(low_N, true_N, atol=1e-5)


@settings(deadline=None)
@given(methods(*RULES), logits(any_floats))
def test_numpy_and_torch_scores_are_the_same_doubles(method, world):
    """Dumps and the rollout compare the very same numbers, behind the same mask."""
    arrays_NV = [x_NV.astype(np.float64) for x_NV in world]
    tensors_NV = [torch.from_numpy(x_NV) for x_NV in arrays_NV]
    max_N1 = arrays_NV[0].max(axis=1, keepdims=True)

    scores_NV = fusion.score(method, *arrays_NV)
    allowed_NV = fusion.plausibility_mask(method, arrays_NV[0], max_N1)

    # bytes, so that zeros of either sign differ too
    assert scores_NV.tobytes() == fusion.score(method, *tensors_NV).numpy().tobytes()
    same_NV = fusion.plausibility_mask(method, tensors_NV[0], torch.from_numpy(max_N1))
    assert np.array_equal(allowed_NV, same_NV.numpy())


def test_proxy_speaks_through_the_tuned_model_and_all_others_through_the_small_one():
    """The default model of every rule."""
    default_roles = {rule: Method(rule=rule, parameters={}).definition.default_role for rule in RULES}

    assert default_roles.pop("proxy") == "tuned"
    assert set(default_roles.values()) == {"small"}


@pytest.mark.parametrize("shape", ["peaked", "tied", "sorted"])
def test_lists_of_a_wide_vocabulary_are_those_of_a_full_sort(shape):
    """Of 20,003 ids, more than whole blocks; ties at the list's end included."""
    generator = torch.Generator().manual_seed(5)
    logits_NV = torch.randn(60, 20_003, generator=generator) * 3
    if shape == "tied":
        logits_NV = logits_NV.round()
    if shape == "sorted":
        logits_NV = logits_NV.sort(
            dim=-1
        ).values  # the largest share their blocks, the last of them in the rest
    ordered = logits_NV.sort(dim=-1, descending=True, stable=True)

    ids_NK, values_NK, outside_N = records.top_list(
        logits_NV, DumpConfig(nats_below_top=50.0, min_top_k=2, max_top_k=64, prompts_per_shard=1)
    )

    assert ids_NK.tolist() == ordered.indices[:, :64].tolist()
    assert values_NK.tolist() == ordered.values[:, :64].tolist()
    assert outside_N.tolist() == ordered.values[:, 64].tolist()
