"""Conversations: one sequence of tokens a prompt, in which the next question is given and nothing else is."""

import json
import re
from pathlib import Path
from types import SimpleNamespace

import polars as pl
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from fsgen.analysis import evaluate
from fsgen.decoding import dump_solo
from fsgen.decoding.stored_texts import text_rows, token_flags, turns_of
from fsgen.decoding.texts import StopRule, TokenSequence, stop_rule
from fsgen.errors import UserError
from fsgen.models import description, loading, spec, tokenization
from fsgen.report import summary
from fsgen.tables import parquet
from fsgen.tasks import grade
from fsgen.tasks.graders import judge
from fsgen.tasks.graders.judge import Rating
from fsgen.tasks.prompts import PROMPTS
from tests.conftest import (
    BRIDGE,
    PARAMS,
    WORDS,
    make_tokenizer,
    run_pair,
    talking_world,
    write_params,
    write_prompts,
)

TOKENIZER = make_tokenizer(WORDS)
END = TOKENIZER.eos_token_id
TALK = "<end> w7 w8 w9"
LEAD = TOKENIZER(TALK)["input_ids"]
CHAT = (
    "{% for m in messages %}{{ '<unk> ' + m['role'][0] + ' ' + m['content'] + ' <end> ' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<unk> a ' }}{% endif %}"
)
words = st.lists(st.integers(0, 27), min_size=1, max_size=6)
turns = st.lists(st.tuples(words, st.booleans()), min_size=1, max_size=4)


def until(bridges: int = 3, **given) -> StopRule:
    return StopRule(TOKENIZER, (END,), (), 6, turn_separators={"toy": [TALK] * bridges}, **given)


def reported(rule: StopRule, spoken: list[tuple[list[int], bool]]) -> TokenSequence:
    """A text of these turns, each ended by the end token or by its length."""
    text = TokenSequence([])
    for ids, is_ended in spoken:
        for token in [*ids, END] if is_ended else (ids * 6)[:6]:
            text.ids.append(token)
            (text,) = rule.close_finished_turns(["toy"], [text])
            if text.written == len(text.ids):
                break
    return text


@settings(deadline=None)
@given(turns)
def test_the_next_question_follows_each_answer_once(spoken):
    """Given whole after an answer that was cut off, without the end token after one that wrote it."""
    text = reported(until(len(spoken) - 1), spoken)

    assert len(text.turns) == len(spoken)
    for turn, following in zip(text.turns, text.turns[1:], strict=False):
        is_ended = text.ids[turn.end - 1] == END
        assert turn.finish_reason == ("eos" if is_ended else "length")
        assert text.ids[following.start : following.written] == (LEAD[1:] if is_ended else LEAD)
    assert text.turns[-1].end == len(text.ids)


@settings(deadline=None)
@given(turns)
def test_rows_and_turns_say_the_same(spoken):
    """The table of turns gives the text's turns back, and the marks count what it counts."""
    text = reported(until(len(spoken) - 1), spoken)
    rows = pl.DataFrame(text_rows(until(), "toy", [1, 2], text))
    result = token_flags([text, text])

    assert turns_of(rows) == {"toy": text.turns}
    assert rows["tokens"].sum() + rows["prompt_tokens"].sum() - 2 == len(text.ids)
    assert result.from_template.sum() == 2 * (rows["prompt_tokens"].sum() - 2)
    assert result.in_answer.sum() == 2 * rows["answer_tokens"].sum()
    assert not (result.from_template & result.in_answer).any()
    assert sorted(set(result.turn)) == [*range(1, len(spoken) + 1)]
    assert sum(
        text.template_tokens_before(p + 1) - text.template_tokens_before(p) for p in range(len(text.ids))
    ) == (result.from_template.sum() / 2)


def test_a_stop_string_that_begins_the_next_question_is_not_said_twice():
    """A text cut at `Question:` already holds the words that lead to the next one."""
    rule = StopRule(TOKENIZER, (END,), ("w9 w8",), 6, turn_separators={"toy": ["w9 w8 w1 w2"]})
    text = TokenSequence([5, 9, 8])

    (text,) = rule.close_finished_turns(["toy"], [text])

    assert text.ids == [5, 9, 8, 1, 2]
    assert text.turns[0].finish_reason == "stop"
    assert text.turns[0].answer_tokens == 2


answers = st.lists(st.sampled_from([1, 2, 3, 4]), min_size=1, max_size=12)


@settings(deadline=None)
@given(answers, st.sampled_from(["w1 w2", "w1 (w2|w3)", "w4"]))
def test_what_follows_the_answer_counts_in_no_ratio(ids, pattern):
    """Counted through the last match of the task's pattern; all of a text that ends with it or has none."""
    text = TOKENIZER.decode(ids)
    ends = [match.end() for match in re.finditer(pattern, text)]
    expected = len(text[: ends[-1]].split()) if ends else len(ids)

    rule = StopRule(TOKENIZER, (END,), (), 99, answer=pattern)

    assert rule.answer_tokens(ids, "length") == expected
    whole = len(ids) + 1 if expected == len(ids) else expected
    assert rule.answer_tokens([*ids, END], "eos") == whole


def chat(template: str):
    tokenizer = make_tokenizer(WORDS)
    tokenizer.chat_template = template
    return tokenizer


def prompts_of(tmp_path, monkeypatch) -> pl.DataFrame:
    monkeypatch.chdir(tmp_path)
    write_prompts(3, follow_ups=("w5", "w6"))
    return parquet.read("data/prompts/toy.parquet").with_columns(
        follow_ups=pl.lit([{"message": "w5", "plain": " p5"}, {"message": "w6", "plain": " p6"}])
    )


def test_a_chat_template_gives_what_stands_between_answers(tmp_path, monkeypatch):
    """From the end of an answer to where the next one begins, each follow-up in turn."""
    prompts = prompts_of(tmp_path, monkeypatch)

    result = tokenization.turn_separators("m", "chat", chat(CHAT), prompts)
    plain = tokenization.turn_separators("m", "plain", chat(CHAT), prompts)

    between = [" <end> <unk> u w5 <end> <unk> a ", " <end> <unk> u w6 <end> <unk> a "]
    assert result.keys() == plain.keys() == set(prompts["prompt_id"])
    assert all(subset == between for subset in result.values())
    assert all(subset == [" p5", " p6"] for subset in plain.values())


@pytest.mark.parametrize(
    "template",
    [
        CHAT.replace("'<unk> a '", "'<unk> a w9 '"),  # opens an answer otherwise than it shows one
        CHAT.replace("m['content'] +", "(m['content'] if loop.last else 'w1') +"),  # drops earlier turns
    ],
)
def test_a_template_that_does_not_go_on_is_refused(template, tmp_path, monkeypatch):
    """A conversation is one sequence, so a second turn has to extend the first."""
    with pytest.raises(UserError, match="should spell a second turn by going on after the first"):
        tokenization.turn_separators("m", "chat", chat(template), prompts_of(tmp_path, monkeypatch))


@pytest.fixture
def talk(tiny_checkpoints, tmp_path, monkeypatch) -> SimpleNamespace:
    """The world of conversations, its models described and nothing run."""
    monkeypatch.chdir(tmp_path)
    return talking_world(tiny_checkpoints)


def test_conversations_of_both_endings_take_part(talk):
    """The worlds that every stage is tested on hold turns that ended by a token and by their length."""
    for name in talk.models:
        description.write_description(talk, name)
    run_pair(talk)
    for source in ("data/dumps/large/toy", "data/rollouts/duo/toy"):
        texts = parquet.read(f"{source}/texts-*.parquet")

        assert set(texts["finish_reason"]) == {"eos", "length"}
        assert set(texts["turn"]) == {1, 2, 3}
        assert {3, 4} <= set(texts.filter(pl.col("turn") > 1)["prompt_tokens"])
    routed = parquet.read("data/routes/duo/toy/simulated-*.parquet").filter(policy="oracle+margin")
    rollout_rows = parquet.read("data/rollouts/duo/toy/tokens-*.parquet")
    assert rollout_rows["from_template"].any()
    fused = parquet.read("data/fused/duo/toy/fused-*.parquet")
    assert fused.filter("from_template")["in_answer"].sum() == 0
    given = fused.filter("from_template", writer="small").select("prompt_id", "pos").unique()
    assert len(given.join(routed, on="prompt_id", how="semi")) > 0
    assert len(given.join(routed, on=["prompt_id", "pos"], how="semi")) == 0


def judged(prompts: pl.DataFrame) -> pl.DataFrame:
    """The prompts with what a judge is shown of them."""
    gold = json.dumps({"category": "math", "turns": ["first?", "second?", "third?"]})
    return prompts.with_columns(gold=pl.lit(gold))


def rate_by_length(requests, cache) -> list[Rating]:
    """A judge who rates the last answer by its words, and says nothing of every fifth."""
    marks = [float(min(10, 1 + len(request.answers[-1].split()))) for request in requests]
    return [Rating(None if i % 5 == 4 else mark, "reply", "j") for i, mark in enumerate(marks)]


def test_a_judged_task_has_ratings_for_accuracies_and_neither_without_a_judge(talk, monkeypatch):
    """The token-level numbers are the same; replies without a rating are counted."""
    params = yaml.safe_load(Path("params.yaml").read_text())
    params["datasets"]["toy"]["task"] = "mtbench"
    params["policies"] = ["oracle+margin", "proxy+always", "speculative@3"]
    talk = write_params(params)
    parquet.write(Path("data/prompts/toy.parquet"), judged(parquet.read("data/prompts/toy.parquet")), PROMPTS)
    for name in talk.models:
        description.write_description(talk, name)
    run_pair(talk)
    numbers = []
    for result in (None, SimpleNamespace(rate=rate_by_length)):
        monkeypatch.setattr(judge, "judge_from_environment", lambda result=result: result)
        for name in talk.models:
            grade.grade_models(talk, name)
        grade.grade_pair(talk, "duo")
        evaluate.evaluate(talk, "toy")
        numbers.append(json.loads(Path("metrics/toy.json").read_text()))
    without, rated = numbers

    entries = [[*n["models"].values(), *n["pairs"]["duo"]["policies"].values()] for n in numbers]
    for absent, present in zip(*entries, strict=True):
        assert not {"accuracy", "accuracy_minus_large", "unknown_share", "low"} & (
            absent.keys() | present.keys()
        )
        assert "rating" not in absent
        assert present["rating_low"] <= present["rating"] <= present["rating_high"]
        assert absent["rated_turns"] == absent["unrated_turns"] == 0
        assert present["unrated_turns"] > 0
        assert 0 < present["truncated_share"] == absent["truncated_share"]
    assert without["pairs"]["duo"]["cof"] == rated["pairs"]["duo"]["cof"]
    assert "| - |" in summary.markdown("toy", without)
    assert "| rated " in summary.markdown("toy", rated)
    large = rated["models"]["large"]
    assert rated["pairs"]["duo"]["policies"]["speculative@3"]["rating"] == large["rating"]


def test_a_tail_follows_the_last_turn_alone(talk):
    """Kept after the stop string that ends the text; between turns there is the next question."""
    write_prompts(8, stops=("w1", "w2", "w5", "w11"), follow_ups=(BRIDGE,))
    rows = {}
    for tokens_after_stop in (0, 3):
        world = write_params(
            PARAMS
            | {
                "datasets": vars_of(talk),
                "dump": PARAMS["dump"] | {"tokens_after_stop": tokens_after_stop, "prompts_per_shard": 8},
            }
        )
        description.write_description(world, "large")
        dump_solo.dump_solo(world, "large")
        rows[tokens_after_stop] = parquet.read("data/dumps/large/toy/texts-*.parquet")

    assert rows[0].drop("tokens", "tokens_after_stop").equals(rows[3].drop("tokens", "tokens_after_stop"))
    last = rows[3].filter(pl.col("turn") == pl.col("turn").max().over("prompt_id"))
    assert rows[3]["tokens_after_stop"].sum() == last["tokens_after_stop"].sum() > 0
    assert (rows[3]["tokens"] - rows[0]["tokens"]).equals(rows[3]["tokens_after_stop"], check_names=False)


def vars_of(world) -> dict:
    return {"toy": {"task": "arith", "max_new_tokens": world.datasets["toy"].max_new_tokens}}


def test_all_turns_have_to_fit_the_context(talk):
    """Three turns of forty tokens and their questions exceed 128 tokens, one would not."""
    description.write_description(talk, "large")
    loaded = loading.load_model(talk, "large")
    prompts = parquet.read("data/prompts/toy.parquet")

    assert len(spec.prompt_ids(loaded, prompts, 30)) == len(prompts)
    with pytest.raises(UserError, match="120 new ones need more"):
        spec.prompt_ids(loaded, prompts, 40)
    assert len(stop_rule(loaded, prompts, 7).turn_separators) == sum(i % 3 != 2 for i in range(11))
