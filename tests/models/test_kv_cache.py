"""Claims about kv_cache.py: however texts enter, grow, split and leave, each is read as if alone."""

import itertools
import math

import numpy as np
import polars as pl
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fsgen.errors import UserError
from fsgen.models import loaded_model, loading, spec
from fsgen.models.batching import PASS_OVERHEAD_TOKENS, pack_batches
from fsgen.models.kv_cache import RaggedKVCache
from fsgen.tables import parquet

TOKENS = st.lists(st.integers(0, 29), min_size=1, max_size=9)
ANYWHERE = settings(
    deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@pytest.fixture
def loaded(tiny_world):
    """A random model."""
    return loading.load_model(tiny_world, "large")


def alone(loaded, ids: list[int]) -> torch.Tensor:
    """Hidden states of one text in one pass without a cache."""
    with torch.inference_mode():
        return loaded.hidden_states(torch.tensor([ids]), use_cache=False)[0]


def assert_follows(loaded, held: list[list[int]], new: list[list[int]], hidden_NH: torch.Tensor) -> None:
    """The states after the new tokens are those of the whole texts."""
    expected = [alone(loaded, old + ids)[len(old) :] for old, ids in zip(held, new, strict=True)]
    torch.testing.assert_close(hidden_NH, torch.cat(expected), atol=1e-4, rtol=1e-4)


@ANYWHERE
@given(data=st.data())
def test_any_sequence_of_moves_leaves_what_one_pass_would(loaded, data):
    """Texts enter, are extended by different numbers of tokens, copied, cut and dropped, in any order."""
    texts: list[list[int]] = []
    reader = RaggedKVCache(loaded, max_batch_tokens=data.draw(st.sampled_from([1, 20, 1000])))
    with torch.inference_mode():
        for _ in range(data.draw(st.integers(1, 9))):
            move = data.draw(
                st.sampled_from(["prefill", "prefill_shared", "append", "reorder"] if texts else ["prefill"])
            )
            if move in ("prefill", "prefill_shared"):
                new = data.draw(st.lists(TOKENS, min_size=1, max_size=4))
                if move == "prefill":
                    assert_follows(loaded, [[]] * len(new), new, reader.prefill(new))
                else:
                    reader.prefill_shared(new)
                texts += new
            elif move == "append":
                rows = data.draw(st.permutations(range(len(texts))))[: data.draw(st.integers(1, len(texts)))]
                new = [data.draw(TOKENS) for _ in rows]
                hidden_NH = reader.append(new, np.array(rows))
                assert_follows(loaded, [texts[r] for r in rows], new, hidden_NH)
                for row, ids in zip(rows, new, strict=True):
                    texts[row] = texts[row] + ids
            else:
                rows = data.draw(st.lists(st.integers(0, len(texts) - 1), min_size=1, max_size=6))
                lengths = [data.draw(st.integers(0, len(texts[r]))) for r in rows]
                reader.reorder(np.array(rows), np.array(lengths))
                texts = [texts[r][:length] for r, length in zip(rows, lengths, strict=True)]
        step = [[7]] * len(texts)
        assert_follows(loaded, texts, step, reader.append(step))
    assert reader.length_R.tolist() == [len(ids) + 1 for ids in texts]


def test_texts_stay_in_their_rows(loaded):
    """The worked example of kv_cache.py: a text that ends or splits moves one row and not all."""
    cache = RaggedKVCache(loaded, max_batch_tokens=100)
    with torch.inference_mode():
        cache.prefill([[1, 2], [3, 4, 5, 6], [7]])
        cache.append([[8], [9], [10]])
        assert (cache.length_R.tolist(), cache._row_R.tolist()) == ([3, 5, 2], [0, 1, 2])

        cache.reorder(np.array([2, 2, 1]), np.array([2, 2, 3]))

        assert (cache.length_R.tolist(), cache._row_R.tolist()) == ([2, 2, 3], [2, 0, 1])
        held, step = [[7, 10], [7, 10], [3, 4, 5]], [[1], [2], [3]]
        assert_follows(loaded, held, step, cache.append(step))


def test_texts_that_others_begin_with_are_not_read_twice(loaded):
    """Four texts, two of them beginnings of a third and one empty, take the positions of two."""
    texts = [[1, 2, 3], [1, 2, 3, 4, 5], [1], [6, 7], []]
    reader = RaggedKVCache(loaded, max_batch_tokens=100)

    with torch.inference_mode():
        read = reader.prefill_shared(texts)
        step = [[9]] * len(texts)
        assert_follows(loaded, texts, step, reader.append(step))

    assert sorted(read) == [1, 3]
    assert reader.positions == 7 + len(texts)


def cheapest(lengths: list[int], budget: int) -> float:
    """Least cost of all ways to cut the sorted lengths into passes, tried one by one."""
    ordered, result = sorted(lengths), math.inf
    for is_cut in itertools.product([False, True], repeat=len(ordered) - 1):
        ends = [i + 1 for i, cut in enumerate(is_cut) if cut] + [len(ordered)]
        batches = [ordered[start:end] for start, end in zip([0, *ends], ends, strict=False)]
        if all(len(batch) == 1 or len(batch) * batch[-1] <= budget for batch in batches):
            result = min(result, cost_of(batches))
    return result


def cost_of(batches: list[list[int]]) -> int:
    """What passes over texts of these lengths cost, in tokens."""
    return sum(PASS_OVERHEAD_TOKENS + len(batch) * max(batch) for batch in batches)


@given(st.lists(st.integers(1, 300), min_size=1, max_size=9), st.integers(1, 2000))
def test_passes_hold_every_text_once_within_the_budget_at_the_least_cost(lengths, budget):
    """Padding included; one text alone may exceed the budget."""
    batches = pack_batches(lengths, budget)

    assert sorted(i for batch in batches for i in batch) == list(range(len(lengths)))
    for batch in batches:
        assert len(batch) == 1 or len(batch) * max(lengths[i] for i in batch) <= budget
    assert cost_of([[lengths[i] for i in batch] for batch in batches]) == cheapest(lengths, budget)


def test_a_model_whose_states_depend_on_more_than_its_tokens_is_refused(tiny_world, monkeypatch):
    """Positions counted from zero in every pass, say, as a model that ignores the cache would."""
    honest = loaded_model.LoadedModel.hidden_states

    def forgetful(self, ids_BL, **where):
        if "position_ids" in where:
            where["position_ids"] = torch.arange(ids_BL.shape[1]).expand_as(ids_BL)
        return honest(self, ids_BL, **where)

    loading.load_model(tiny_world, "large")
    monkeypatch.setattr(loaded_model.LoadedModel, "hidden_states", forgetful)

    with pytest.raises(UserError, match="large says something else when it reads in pieces"):
        loading.load_model(tiny_world, "large")


@pytest.mark.parametrize(
    ("error", "raised", "message"),
    [
        (RuntimeError("can't allocate memory"), UserError, "Memory ran out while large was loaded"),
        (RuntimeError("CUDA error: out of memory"), UserError, "Memory ran out while large was loaded"),
        (RuntimeError("CUBLAS_STATUS_ALLOC_FAILED"), UserError, "Memory ran out while large was loaded"),
        (RuntimeError("no such kernel"), RuntimeError, "no such kernel"),
    ],
)  # fmt: skip
def test_no_room_for_a_model_is_a_complaint(error, raised, message, tiny_world, monkeypatch):
    """Before there is a budget that could halve."""

    def fail(*_):
        raise error

    monkeypatch.setattr(loading, "load_weights", fail)

    with pytest.raises(raised, match=message):
        loading.load_model(tiny_world, "large")


def test_a_prompt_without_a_token_is_refused(tiny_world):
    """Its first token would have nothing to follow."""
    prompts = parquet.read("data/prompts/toy.parquet").with_columns(plain=pl.lit(""))

    with pytest.raises(UserError, match=r"Prompt 'toy-000' has no token for large"):
        spec.prompt_ids(spec.model_spec(tiny_world, "large"), prompts, 5)
