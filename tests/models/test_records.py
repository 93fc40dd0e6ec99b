"""Claims about records.py: the stored list is a slow sort's, however many logits tie where it is cut."""

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fsgen.config.schema import DumpConfig
from fsgen.models import records
from fsgen.tables.schemas.dumps import RECORD


def slow_list(logits_V, dump):
    """Ids by falling logit, of a tie the lowest first; then as many as the settings keep, and the next."""
    ranked = sorted(range(len(logits_V)), key=lambda i: (-logits_V[i], i))
    near = sum(logits_V[i] >= logits_V[ranked[0]] - dump.nats_below_top for i in ranked)
    count = min(max(near, dump.min_top_k), dump.max_top_k, len(ranked))
    return ranked[:count], logits_V[ranked[count]] if count < len(ranked) else -np.inf


@pytest.mark.parametrize("vocabulary", [5, 70, 1300])  # all kept; one topk; topk within blocks
@given(distinct=st.integers(1, 40), seed=st.integers(0, 2**16), max_top_k=st.integers(2, 5))
def test_the_list_is_that_of_a_stable_sort(vocabulary, distinct, seed, max_top_k):
    """Few distinct values tie in the list, across its end and beyond."""
    dump = DumpConfig(nats_below_top=1.0, min_top_k=2, max_top_k=max_top_k, prompts_per_shard=1)
    values = np.random.default_rng(seed).integers(distinct, size=(4, vocabulary)) / 4
    ids_NK, logits_NK, outside_N = records.top_list(torch.tensor(values, dtype=torch.float32), dump)
    for row, expected in enumerate(values.tolist()):
        kept, outside = slow_list(expected, dump)
        assert ids_NK[row][ids_NK[row] >= 0].tolist() == kept
        assert logits_NK[row][: len(kept)].tolist() == [expected[i] for i in kept]
        assert outside_N[row].item() == outside


@given(seed=st.integers(0, 2**16))
def test_scalars_are_those_of_float64(seed):
    """Entropy and logsumexp of one row after another, in plain numpy."""
    values = np.random.default_rng(seed).normal(0, 4, (3, 200)).astype(np.float32)
    result = records.record(
        torch.tensor(values), DumpConfig(nats_below_top=1.0, min_top_k=2, max_top_k=4, prompts_per_shard=1)
    )
    for row, logits in enumerate(values.astype(np.float64)):
        total = np.log(np.exp(logits - logits.max()).sum()) + logits.max()
        chances = np.exp(logits - total)
        assert result.logsumexp_N[row] == pytest.approx(total, rel=1e-5)
        assert result.entropy_N[row] == pytest.approx(-(chances * (logits - total)).sum(), abs=1e-5)
        assert (result.max_logit_N[row], result.min_logit_N[row]) == (logits.max(), logits.min())


@pytest.mark.parametrize("max_top_k", [2, 30])
def test_a_table_gives_the_records_back(max_top_k):
    """To the bit, with lists that end at different lengths and with lists that hold the whole vocabulary."""
    values = np.random.default_rng(0).normal(0, 2, (6, 30)).astype(np.float32)
    original = records.record(
        torch.tensor(values),
        DumpConfig(nats_below_top=1.0, min_top_k=2, max_top_k=max_top_k, prompts_per_shard=1),
    )
    width = (original.top_ids_NK >= 0).sum(axis=1).max()

    table = original.to_table()
    returned = records.TokenRecords.from_table(table)

    assert table.column_names == [name for name, _, _ in RECORD]
    assert [field.type for field in table.schema] == [kind for _, kind, _ in RECORD]
    for name, array in returned._asdict().items():
        expected = getattr(original, name)
        assert array.dtype == expected.dtype
        np.testing.assert_array_equal(array, expected[:, :width] if array.ndim == 2 else expected)


def test_the_first_and_last_rows_of_a_table_are_the_records_of_parts():
    """Records are row by row: those of two parts are those of the whole."""
    values = torch.tensor(np.random.default_rng(1).normal(0, 2, (5, 30)).astype(np.float32))
    dump = DumpConfig(nats_below_top=1.0, min_top_k=2, max_top_k=4, prompts_per_shard=1)
    parts = [records.record(values[:2], dump), records.record(values[2:], dump)]

    joined = records.join(parts).to_table()

    assert joined == pa.concat_tables([part.to_table() for part in parts]).combine_chunks()
