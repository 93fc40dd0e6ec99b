"""AdmissionQueue: every prompt enters once, where rows are free, and never with one of half its width."""

from hypothesis import given
from hypothesis import strategies as st

from fsgen.decoding.rollout.admission import AdmissionQueue
from fsgen.decoding.rollout.runs import PendingText
from fsgen.decoding.texts import TokenSequence

WIDTHS = st.lists(st.integers(1, 5000), min_size=1, max_size=12)


def pending_texts(runs_P: list[int]) -> list[PendingText]:
    """So many runs on each prompt, every second pair of them on one text."""
    return [
        PendingText(run, prompt, TokenSequence([prompt, run // 2]))
        for prompt, count in enumerate(runs_P)
        for run in range(count)
    ]


@given(data=st.data(), widths=WIDTHS, rows=st.integers(1, 20))
def test_every_prompt_enters_once_and_none_is_twice_as_wide_as_another(data, widths, rows):
    """While some leave in between, in any order; with no row taken there is always one that enters."""
    runs = data.draw(st.lists(st.integers(1, 8), min_size=len(widths), max_size=len(widths)))
    queue, held, entered = AdmissionQueue(pending_texts(runs), widths, rows), [], []

    while queue:
        taken, groups = len(held), queue.admit(held)
        assert groups or held
        for group in groups:
            assert taken < rows
            assert len({entry.prompt for entry in group}) == 1
            texts = {tuple(entry.text.ids) for entry in group}
            taken += len(texts)
            held += [group[0].prompt] * len(texts)
            entered.append(group[0].prompt)
        assert max(widths[p] for p in held) <= 2 * min(widths[p] for p in held)
        held = held[data.draw(st.integers(1, len(held))) :]

    assert sorted(entered) == list(range(len(widths)))
    assert [widths[p] for p in entered] == sorted(widths)


def test_prompts_enter_where_a_quarter_of_the_rows_is_free():
    """Four rows, three of them taken: one is a quarter."""
    queue = AdmissionQueue(pending_texts([2, 2, 2, 2, 2]), [10] * 5, rows=4)

    assert [group[0].prompt for group in queue.admit([])] == [0, 1, 2, 3]
    assert queue.admit([0, 1, 2, 3]) == []
    assert [group[0].prompt for group in queue.admit([1, 2, 3])] == [4]
