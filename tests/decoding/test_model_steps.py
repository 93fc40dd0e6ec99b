"""Positions that models process on a tree, counted by hand on small examples."""

from fsgen.decoding.rollout.model_steps import Positions, count_positions


def test_what_two_texts_share_is_counted_once():
    """The example of the module: the prompt's last token and two tokens, instead of twice three."""
    fed = (0, 1, 2)

    assert count_positions({fed[:2]: {fed}}, prompt_tokens=5) == Positions(3, 4)
    assert count_positions({fed[:2]: {fed, (0, 1, 2, 3)}}, prompt_tokens=5) == Positions(4, 4)
    assert count_positions({fed[:2]: {fed, (0, 1, 4)}}, prompt_tokens=5) == Positions(4, 4)


def test_a_start_that_another_one_begins_with_is_read_as_a_part_of_it():
    """The prompt is read once for both; starts that differ read it twice."""
    assert count_positions({(0, 1): {(0, 1, 5)}, (0, 1, 2): {(0, 1, 2, 6)}}, prompt_tokens=3) == Positions(
        5, 2
    )
    assert count_positions({(0, 1): {(0, 1)}, (0, 2): {(0, 2)}}, prompt_tokens=3) == Positions(4, 4)


def test_given_tokens_are_prompt_positions():
    """A follow-up question of two tokens, -1 - id each."""
    assert count_positions({(0, 1): {(0, 1, -4, -5, 2)}}, prompt_tokens=3) == Positions(3, 4)


def test_without_texts_there_is_nothing_to_read():
    """All policies stayed on the dumped texts."""
    assert count_positions({}, prompt_tokens=3) == Positions(0, 0)
