"""Tests of `costs`: the vectorised counts equal plain loops, and a few are done by hand."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fsgen.analysis import costs

SMALL = costs.Shape(non_embedding=100, head=20, layers=2, width=4)
LARGE = costs.Shape(non_embedding=1000, head=50, layers=3, width=8)

texts_of_bits = st.lists(st.lists(st.booleans(), min_size=1, max_size=40), max_size=6)


def flat(texts):
    """Bits of all texts in a row, and ids that neither start at 0 nor rise."""
    bits_N = np.array([bit for bits in texts for bit in bits], dtype=bool)
    return bits_N, np.repeat(90 - 7 * np.arange(len(texts)), [len(bits) for bits in texts])


def draft_and_verify(small, large, draft):
    """Greedy speculative decoding token by token: (start, drafted, accepted) of every round.

    `large` is the text that L writes, `small[i]` what S writes after large[:i].
    """
    written, rounds = [], []
    while len(written) < len(large):
        start = len(written)
        drafts = small[start : start + draft]  # only accepted ones depend on this being L's prefix
        accepted = 0
        while accepted < len(drafts) and drafts[accepted] == large[start + accepted]:
            written.append(drafts[accepted])
            accepted += 1
        if len(written) < len(large):
            written.append(large[len(written)])
        rounds.append((start, len(drafts), accepted))
    assert written == large
    return rounds


@given(texts_of_bits, st.integers(1, 7))
def test_rounds_equal_a_plain_draft_and_verify_loop(texts, draft):
    """Mismatch bits alone determine every round, for all texts at once."""
    bits_N, text_N = flat(texts)
    rounds = costs.speculative_rounds(bits_N, text_N, draft)
    expected = [
        (90 - 7 * i, *row)
        for i, bits in enumerate(texts)
        for row in draft_and_verify([int(bit) for bit in bits], [0] * len(bits), draft)
    ]

    assert expected == list(zip(*(column.tolist() for column in rounds), strict=True))


@given(texts_of_bits, st.integers(1, 7))
def test_accepted_and_added_tokens_make_up_the_text(texts, draft):
    """Every round adds one token to those accepted, but for a last one accepted to the end."""
    bits_N, text_N = flat(texts)
    rounds = costs.speculative_rounds(bits_N, text_N, draft)
    lengths = {90 - 7 * i: len(bits) for i, bits in enumerate(texts)}
    ends = sum(
        start + accepted == lengths[text]
        for text, start, accepted in zip(rounds.text_R, rounds.start_R, rounds.accepted_R, strict=True)
    )

    assert len(bits_N) == rounds.accepted_R.sum() + len(rounds.text_R) - ends


def test_a_perfect_draft_of_two_costs_every_third_token_a_pass():
    """Seven agreeing tokens with K = 2: rounds at 0, 3 and 6, the last cut to one draft."""
    rounds = costs.speculative_rounds(np.zeros(7, bool), np.zeros(7, int), 2)

    assert rounds.start_R.tolist() == [0, 3, 6]
    assert [2, 2, 1] == rounds.drafted_R.tolist() == rounds.accepted_R.tolist()


def test_a_drafter_that_is_always_wrong_gains_nothing():
    """Every token is then L's correction, at a pass each."""
    rounds = costs.speculative_rounds(np.ones(5, bool), np.zeros(5, int), 3)

    assert rounds.start_R.tolist() == [0, 1, 2, 3, 4]
    assert rounds.drafted_R.tolist() == [3, 3, 3, 2, 1]
    assert rounds.accepted_R.tolist() == [0] * 5


def test_verification_is_a_pass_a_round_over_its_drafts_and_one():
    """Texts of 7 agreeing and 2 differing tokens, K = 2, prompts of 10 and 4 tokens."""
    bits_N = np.array([0] * 7 + [1, 1], dtype=bool)
    spent = costs.verified(costs.speculative_rounds(bits_N, np.repeat([0, 1], [7, 2]), 2), np.array([10, 4]))

    assert spent.passes_T.tolist() == [3, 2]
    assert spent.positions_T.tolist() == [3 + 3 + 2, 3 + 2]
    assert spent.prompt_positions_T.tolist() == [9, 3]


def test_the_drafter_catches_up_only_after_a_full_round_that_another_follows():
    """Bits 000|001|0 with K = 2: full, full up to the bonus' mismatch, last."""
    rounds = costs.speculative_rounds(np.array([0, 0, 0, 0, 1, 0, 0], bool), np.zeros(7, int), 2)

    assert rounds.start_R.tolist() == [0, 3, 5]
    assert rounds.accepted_R.tolist() == [2, 1, 2]
    assert costs.drafter_positions(rounds).tolist() == [3, 2, 2]


def test_nothing_written_costs_nothing():
    """Empty tables pass through every count."""
    none = np.zeros(0, int)
    rounds = costs.speculative_rounds(none.astype(bool), none, 5)

    assert [len(column) for column in rounds] == [0, 0, 0, 0]
    assert [len(column) for column in costs.verified(rounds, none)] == [0, 0, 0]
    assert len(costs.speculative_flops(SMALL, LARGE, rounds, none)) == 0


def slow_flops(shape, indices):
    """Matrix products and attention, index by index."""
    return sum(
        2 * (shape.non_embedding + shape.head) + 4 * shape.layers * shape.width * (index + 1)
        for index in indices
    )


@given(st.lists(st.tuples(st.integers(0, 60), st.integers(0, 60)), max_size=5))
def test_flops_equal_a_loop_over_positions(sizes):
    """The closed form sums what each index costs."""
    prompt_T, positions_T = np.array(sizes, dtype=int).reshape(-1, 2).T
    expected = [slow_flops(LARGE, range(prompt + positions)) for prompt, positions in sizes]

    assert expected == costs.flops(LARGE, prompt_T, positions_T).tolist()


def test_one_position_costs_two_flops_a_parameter_and_its_attention():
    """2 (1000 + 50) + 4 * 3 * 8 * 1 for the first index, 96 more for the second."""
    assert costs.flops(LARGE, np.array([0]), np.array([1])).tolist() == [2196.0]
    assert costs.stretch_flops(LARGE, np.array([1]), np.array([1])).tolist() == [2292.0]


@given(texts_of_bits, st.integers(1, 7), st.integers(1, 9))
def test_speculative_flops_equal_a_loop_over_what_each_model_reads(texts, draft, prompt_tokens):
    """L reads every round's drafts and one token; S its drafts' inputs and what it skipped."""
    bits_N, text_N = flat(texts)
    rounds = costs.speculative_rounds(bits_N, text_N, draft)
    expected = []
    for bits in texts:
        plain = draft_and_verify([int(bit) for bit in bits], [0] * len(bits), draft)
        total = slow_flops(LARGE, range(prompt_tokens - 1)) + slow_flops(SMALL, range(prompt_tokens - 1))
        for i, (start, drafted, accepted) in enumerate(plain):
            first = prompt_tokens - 1 + start
            catching_up = accepted == drafted and i + 1 < len(plain)
            total += slow_flops(LARGE, range(first, first + drafted + 1))
            total += slow_flops(SMALL, range(first, first + drafted + catching_up))
        expected.append(total)
    got = costs.speculative_flops(SMALL, LARGE, rounds, np.full(len(texts), prompt_tokens))

    assert expected == got.tolist()


def test_rows_that_do_not_fit_are_refused():
    """Torn texts, a draft of nothing, an absent prompt: each says what was expected."""
    bits_N = np.zeros(3, bool)
    with pytest.raises(ValueError, match="stand together"):
        costs.speculative_rounds(bits_N, np.array([0, 1, 0]), 2)
    with pytest.raises(ValueError, match="at least one drafted token"):
        costs.speculative_rounds(bits_N, np.zeros(3, int), 0)
    with pytest.raises(ValueError, match="one text id a row"):
        costs.speculative_rounds(bits_N, np.zeros(2, int), 2)
    with pytest.raises(ValueError, match="at least one token for each of 1 texts"):
        costs.verified(costs.speculative_rounds(bits_N, np.zeros(3, int), 2), np.array([0]))
