"""Claims about texts.py and what writing alone makes of them: where texts end, and what counts of them."""

from types import SimpleNamespace

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fsgen.decoding import dump_solo
from fsgen.decoding.stored_texts import hash_prompt, text_rows
from fsgen.decoding.texts import StopRule, TokenSequence, Turn
from fsgen.tables import parquet
from tests.conftest import PARAMS, WORDS, describe_all, make_tokenizer, write_params, write_prompts

LIMIT = PARAMS["datasets"]["toy"]["max_new_tokens"]
TOKENIZER = make_tokenizer(WORDS)
END = TOKENIZER.eos_token_id
PIECES = [*WORDS, "<unk>", "<end>"]
STOPS = ["w2", "w1 w2", "2 w1", " w3", "w20 w2", "w1 w1 w1", "w2 w20 w1"]

few_words = st.sampled_from([1, 2, 3, 20, 21])
text_ids = st.lists(st.one_of(few_words, few_words, few_words, st.integers(0, 29)), min_size=1, max_size=12)
stop_sets = st.lists(st.sampled_from(STOPS), max_size=3).map(tuple)


def spell(ids):
    """The text of ids: words with a space between two."""
    return " ".join(PIECES[i] for i in ids)


def until(stops=(), limit=12, tokens_after_stop=0):
    return StopRule(TOKENIZER, (END,), stops, limit, tokens_after_stop)


def slow_end(ids, stops, limit):
    """Length and reason of the shortest beginning of `ids` that is a finished text."""
    for length in range(1, len(ids) + 1):
        if ids[length - 1] == END:
            return length, "eos"
        if any(stop in spell(ids[:length]) for stop in stops):
            return length, "stop"
        if length == limit:
            return length, "length"
    return None


def slow_start(text, stops):
    return min(text.find(stop) for stop in stops if stop in text)


def slow_answer(ids, stops):
    """Tokens through the first that reaches into the stop string."""
    start = slow_start(spell(ids), stops)
    return next(n for n in range(1, len(ids) + 1) if len(spell(ids[:n])) > start)


@settings(deadline=None)
@given(text_ids, stop_sets, st.integers(1, 12))
def test_a_text_ends_at_the_first_token_that_completes_an_ending(ids, stops, limit):
    """Asked after every token, the rule speaks up where a search of the whole text first would."""
    rule = until(stops, limit)
    reasons = ((n, rule.finish_reasons([ids[:n]])[0]) for n in range(1, len(ids) + 1))

    assert slow_end(ids, stops, limit) == next(((n, reason) for n, reason in reasons if reason), None)


@settings(deadline=None)
@given(st.lists(text_ids, min_size=1, max_size=4), stop_sets)
def test_texts_side_by_side_end_as_they_would_alone(texts, stops):
    """One answer a text, in order."""
    rule = until(stops)

    assert [rule.finish_reasons([ids])[0] for ids in texts] == rule.finish_reasons(texts)


@settings(deadline=None)
@given(text_ids, stop_sets)
def test_the_answer_goes_through_the_first_token_of_the_stop_string(ids, stops):
    """The token that begins to stop counts, later ones of the stop string do not; else all count."""
    length, reason = slow_end([*ids, END], stops, 12)
    ids = [*ids, END][:length]

    expected = slow_answer(ids, stops) if reason == "stop" else length

    assert expected == until(stops).answer_tokens(ids, reason)


def test_a_stop_string_may_end_and_begin_inside_a_word():
    """Of `w3 w1 w20`, `1 w2` leaves `w3 w`, at the token w20, with w1 the last that counts."""
    ids, rule = [3, 1, 20], until(("1 w2",))

    assert rule.finish_reasons([ids[:2]]) == [None]
    assert rule.finish_reasons([ids]) == ["stop"]
    assert rule.answer_tokens(ids, "stop") == 2
    assert rule.truncate(spell(ids)) == "w3 w"


@settings(deadline=None)
@given(text_ids, stop_sets)
def test_a_text_is_kept_up_to_its_first_stop_string(ids, stops):
    """None of its stop strings is left in it, and without one it stays whole."""
    text = spell(ids)
    kept = until(stops).truncate(text)

    assert text.startswith(kept)
    assert not any(stop in kept for stop in stops)
    assert len(kept) == (slow_start(text, stops) if any(stop in text for stop in stops) else len(text))


def test_a_row_spells_no_end_token_and_counts_it():
    """Three tokens, the last of them the end; a digest of the prompt's ids whatever holds them."""
    text = TokenSequence([1, 2, END], (Turn(0, 0, 3, "eos", 3),))
    (row,) = text_rows(until(("w9",)), "toy-1", [5, 6], text)

    assert row == {
        "prompt_id": "toy-1", "turn": 1, "text": "w1 w2", "tokens": 3, "answer_tokens": 3,
        "tokens_after_stop": 0,
        "finish_reason": "eos", "prompt_tokens": 2, "prompt_hash": hash_prompt((5, 6)),
    }  # fmt: skip
    assert hash_prompt([5, 6]) != hash_prompt([6, 5])
    assert hash_prompt([5]) != hash_prompt([5, 0])


def test_a_tail_changes_no_text():
    """A longer stop string that only the tokens_after_stop completes cuts nothing."""
    rule = until(("w3 w4 w5", "w4"))
    (turn,) = rule.close_finished_turns(["toy-1"], [TokenSequence([1, 3, 4])])[0].turns
    (short,) = text_rows(rule, "toy-1", [0], TokenSequence([1, 3, 4], (turn,)))
    (tailed,) = text_rows(rule, "toy-1", [0], TokenSequence([1, 3, 4, 5], (turn,)))

    assert short["text"] == tailed["text"] == "w1 w3 "
    assert (short["tokens"], tailed["tokens"]) == (3, 4)


def dumped(stops=(), tokens_after_stop=0, stop_tokens=None):
    """What the large model writes alone: rows of its texts, and columns of its tokens by prompt."""
    named = {"stop_tokens": stop_tokens} if stop_tokens else {}
    models = {name: entry | named for name, entry in PARAMS["models"].items()}
    write_prompts(stops=stops)
    world = write_params(
        PARAMS | {"models": models, "dump": PARAMS["dump"] | {"tokens_after_stop": tokens_after_stop}}
    )
    describe_all(world)
    dump_solo.dump_solo(world, "large")
    tokens = parquet.read("data/dumps/large/toy/tokens-*.parquet")
    tokens = tokens.group_by("prompt_id", maintain_order=True).agg(pl.all())
    by_prompt = {row["prompt_id"]: SimpleNamespace(**row) for row in tokens.iter_rows(named=True)}
    texts = parquet.read("data/dumps/large/toy/texts-*.parquet")
    return {
        row["prompt_id"]: SimpleNamespace(**row, rows=by_prompt[row["prompt_id"]])
        for row in texts.iter_rows(named=True)
    }


@pytest.fixture(scope="module")
def home(tiny_checkpoints, tmp_path_factory):
    """A project folder in which the large model has written without stop strings: its texts' ids."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("texts")
        patch.chdir(folder)
        (folder / "checkpoints").symlink_to(tiny_checkpoints)
        yield {name: text.rows.token_id for name, text in dumped().items()}


@pytest.fixture(scope="module")
def stop(home):
    """Two words in a row that most texts come to write, neither at once nor at their end."""
    pairs = {spell(ids[i : i + 2]) for ids in home.values() for i in range(2, LIMIT - 6)}
    ends = {pair: [slow_end(ids, (pair,), LIMIT) for ids in home.values()] for pair in sorted(pairs)}
    return max(ends, key=lambda pair: sum(why == "stop" and 3 < n < LIMIT - 4 for n, why in ends[pair]))


def test_the_free_texts_end_at_their_length(home):
    """Without a stop string a text holds max_new_tokens unless the model ends it."""
    assert all(len(ids) == LIMIT or ids[-1] == END for ids in home.values())
    assert any(len(ids) == LIMIT for ids in home.values())


@pytest.mark.parametrize("tokens_after_stop", [0, 3])
def test_a_stop_string_ends_a_written_text(home, stop, tokens_after_stop):
    """Texts are the free ones up to the token that completes it and some more, outside the answer."""
    texts = dumped((stop,), tokens_after_stop)

    assert texts.keys() == home.keys()
    for name, text in texts.items():
        length, reason = slow_end(home[name], (stop,), LIMIT)
        ids = home[name][: length + tokens_after_stop if reason == "stop" else length]
        counted = slow_answer(ids[:length], (stop,)) if reason == "stop" else length

        assert reason == text.finish_reason
        assert ids == text.rows.token_id
        assert list(range(len(ids))) == text.rows.pos
        assert [pos < counted for pos in range(len(ids))] == text.rows.in_answer
        assert counted == text.answer_tokens
        assert len(ids) == text.tokens
        assert spell(i for i in ids if i != END).split(stop)[0] == text.text
    reasons = [text.finish_reason for text in texts.values()]
    assert reasons.count("stop") >= 2


def test_a_stop_token_ends_a_written_text(home):
    """The token that most texts come to write, named as the model's end, is a row and no part of the text."""
    word = max(range(28), key=lambda i: sum(i in ids[1:] and i != ids[0] for ids in home.values()))

    texts = dumped(stop_tokens=[PIECES[word]])

    for name, text in texts.items():
        free = home[name]
        ids = free[: free.index(word) + 1] if word in free else free
        assert text.rows.token_id[: len(ids)] == ids
        if word in free:
            assert text.finish_reason == "eos"
            assert text.rows.token_id == ids
            assert text.text == spell(ids[:-1])
            assert all(text.rows.in_answer)
    assert [text.finish_reason for text in texts.values()].count("eos") >= 2


def test_a_tail_ends_at_a_stop_token(home):
    """A text stopped by its string goes on to an end token, and was stopped by its string all the same."""
    name, size = next(
        (name, size)
        for name, ids in home.items()
        for size in range(2, len(ids) - 3)
        if ids[size] not in ids[:size] and slow_end(ids, (spell(ids[size - 2 : size]),), LIMIT)[0] == size
    )
    ids = home[name]

    text = dumped((spell(ids[size - 2 : size]),), tokens_after_stop=9, stop_tokens=[PIECES[ids[size]]])[name]

    assert text.finish_reason == "stop"
    assert text.rows.token_id == ids[: size + 1]
    assert text.rows.in_answer == [True] * (size - 1) + [False] * 2
