"""What a benchmark provides: a `Task` that turns rows into prompts, and texts into verdicts."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from fsgen.config.schema import DatasetConfig
from fsgen.errors import UserError

Judgement = Literal["right", "wrong", "unknown"]
Message = dict[str, str]
# tokens that begin another turn of a chat or another document; they end a text where a vocabulary has them
END_TOKENS = (
    "<|im_start|>", "<|im_end|>", "<|endoftext|>", "<|end_of_text|>", "<|start_header_id|>", "<|eot_id|>",
    "<|end|>", "<start_of_turn>", "<end_of_turn>",
)  # fmt: skip
NEXT_QUESTION = "\nQuestion:"  # a base model that continues a plain prompt writes the next block


class Example(NamedTuple):
    """A solved problem that a prompt shows before its question."""

    question: str
    answer: str


class FollowUp(NamedTuple):
    """A further question of the user after an answer."""

    message: str
    """The question as a chat turn."""
    plain: str
    """The question as plain text between the previous answer and its own."""


class Prompt(NamedTuple):
    """One row of a benchmark as a prompt."""

    prompt_id: str
    messages: list[Message]
    """The conversation that a chat template renders, the question last."""
    plain: str
    """The same for models with `prompt_format: plain`; it ends where the answer begins."""
    gold: dict
    """What `grade` compares with, by the hub's column names."""
    follow_ups: tuple[FollowUp, ...] = ()


class Verdict(NamedTuple):
    """A task's judgement of one text, and the reasons for it."""

    verdict: Judgement
    """The judgement that results count."""
    extracted: str | None
    """The part of the text that was compared with the gold answer; None if there was none."""
    strict: Judgement
    """The judgement of the answer in the task's own format; `unknown` if the format is not kept."""
    flexible: Judgement
    """The judgement of the most likely answer in any format."""
    outcome: str | None = None
    """For code, how the program ended: an outcome of `graders.sandbox`."""
    detail: str | None = None
    """The reason, if the verdict alone does not give it."""


@dataclass(frozen=True, kw_only=True)
class Task:
    """A benchmark: the functions and values that the pipeline takes from its module."""

    prompts: Callable[[DatasetConfig], list[Prompt]]
    """All prompts of a dataset entry, in the order of the rows; UserError for bad rows or settings."""
    gold: tuple[str, ...]
    """Names of the gold columns that `grade` or `requests` reads."""
    grade: Callable[..., Verdict] | None = None
    """The verdict on (text, gold), or on (text, gold, protections) if the task runs code. The text holds no
    stop string. None if a judge rates the task."""
    requests: Callable[[list[str], dict], list[Any]] | None = None
    """One `graders.judge.Request` a turn for (answers, gold). None if `grade` gives verdicts."""
    stops: tuple[str, ...] = ()
    """Strings that end a turn and are no part of it."""
    stop_tokens: tuple[str, ...] = ()
    """Tokens that end a turn if the vocabulary has them."""
    answer: str | None = None
    """Regular expression whose last match closes the answer; later tokens count in no ratio. None if all
    tokens belong to the answer."""
    runs_code: bool = False
    """Whether grading runs programs that a model wrote."""
    limit_s: float | None = None
    """Seconds for grading one text in a worker process, after which it is `unknown`; None grades in this
    process."""
    test_prompts: int | None = None
    """Prompts of the test split, for cost estimates; None if the number is not known."""
    prompt_tokens: int | None = None
    """Mean tokens of a zero-shot prompt in Qwen2.5's tokenizer (first 300 prompts, no chat template)."""
    turns: int = 1
    """Turns of a conversation, for cost estimates."""

    @property
    def is_judged(self) -> bool:
        """Whether a judge rates the answers."""
        return self.requests is not None


def judge_answers(strict: str | None, flexible: str | None, is_right: Callable[[str], bool]) -> Verdict:
    """The verdict on the answer in the task's format and the one in any format; None is a missing answer."""
    strict_judgement = _judge(strict, is_right)
    flexible_judgement = _judge(flexible, is_right)
    verdict = prefer_strict(strict_judgement, flexible_judgement)
    return Verdict(verdict, strict or flexible, strict_judgement, flexible_judgement)


def _judge(answer: str | None, is_right: Callable[[str], bool]) -> Judgement:
    if answer is None:
        return "unknown"
    return "right" if is_right(answer) else "wrong"


def prefer_strict(strict: Judgement, flexible: Judgement) -> Judgement:
    """The judgement that counts: `strict`, or `flexible` if the format was not kept."""
    return flexible if strict == "unknown" else strict


def refuse_shots(title: str, dataset: DatasetConfig) -> None:
    """UserError if solved examples are requested of a benchmark that shows none."""
    if dataset.shots:
        raise UserError(f"{title} shows no solved problems, got {dataset.shots} shots; set shots to 0.")


def few_shot_prompt(
    prompt_id: str, system: str, examples: list[Example], question: str, gold: dict
) -> Prompt:
    """A prompt with solved examples, as a conversation and as plain text."""
    messages = build_messages(system, examples, question)
    return Prompt(prompt_id, messages, build_plain_text(examples, question), gold)


def build_messages(system: str, examples: list[Example], question: str) -> list[Message]:
    """A conversation whose earlier turns are solved examples."""
    messages = [{"role": "system", "content": system}]
    for example in examples:
        messages.append({"role": "user", "content": example.question})
        messages.append({"role": "assistant", "content": example.answer})
    return [*messages, {"role": "user", "content": question}]


def build_plain_text(examples: list[Example], question: str) -> str:
    """Question-and-answer blocks that end where the answer to `question` begins."""
    blocks = [f"Question: {example.question}\nAnswer: {example.answer}" for example in examples]
    return "\n\n".join([*blocks, f"Question: {question}\nAnswer:"])


def truncate_at_stop(text: str, stops: tuple[str, ...]) -> str:
    """The text before its first stop string."""
    positions = [text.find(stop) for stop in stops if stop in text]
    return text[: min(positions, default=len(text))]
