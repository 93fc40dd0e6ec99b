"""Claims about fsgen.waiting: every prompt enters once, where rows are free, beside none half as wide."""

from hypothesis import given
from hypothesis import strategies as st

from fsgen.decoding.rollout.admission import AdmissionQueue, PendingText
from fsgen.decoding.texts import TokenSequence

WIDTHS = st.lists(st.integers(1, 5000), min_size=1, max_size=12)


def starts_of(riders_P: list[int]) -> list[PendingText]:
    """So many riders on each prompt, every second pair of them on one text."""
    return [
        PendingText(r, p, TokenSequence([p, r // 2]))
        for p, count in enumerate(riders_P)
        for r in range(count)
    ]


@given(data=st.data(), widths=WIDTHS, rows=st.integers(1, 20))
def test_every_prompt_enters_once_and_none_is_twice_as_wide_as_another(data, widths, rows):
    """While some leave in between, in any order; with no row taken there is always one that enters."""
    riders = data.draw(st.lists(st.integers(1, 8), min_size=len(widths), max_size=len(widths)))
    waiting, there, seen = AdmissionQueue(starts_of(riders), widths, rows), [], []

    while waiting:
        taken, groups = len(there), waiting.enter(there)
        assert groups or there
        for group in groups:
            assert taken < rows
            assert len({start.prompt for start in group}) == 1
            texts = {tuple(start.text.ids) for start in group}
            taken += len(texts)
            there += [group[0].prompt] * len(texts)
            seen.append(group[0].prompt)
        assert max(widths[p] for p in there) <= 2 * min(widths[p] for p in there)
        there = there[data.draw(st.integers(1, len(there))) :]

    assert sorted(seen) == list(range(len(widths)))
    assert [widths[p] for p in seen] == sorted(widths)


def test_prompts_enter_where_a_quarter_of_the_rows_is_free():
    """Four rows, three of them taken: one is a quarter."""
    waiting = AdmissionQueue(starts_of([2, 2, 2, 2, 2]), [10] * 5, rows=4)

    assert [group[0].prompt for group in waiting.enter([])] == [0, 1, 2, 3]
    assert waiting.enter([0, 1, 2, 3]) == []
    assert [group[0].prompt for group in waiting.enter([1, 2, 3])] == [4]
