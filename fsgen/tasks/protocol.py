"""What a benchmark hands over: prompts to write from, and a verdict on what was written."""

from typing import Literal, NamedTuple

from fsgen.config.schema import DatasetConfig
from fsgen.errors import UserError

Judgement = Literal["right", "wrong", "unknown"]
Message = dict[str, str]
# tokens that begin another turn of a chat or another document; they end a text where a vocabulary has them
END_TOKENS = (
    "<|im_start|>", "<|im_end|>", "<|endoftext|>", "<|end_of_text|>", "<|start_header_id|>", "<|eot_id|>",
    "<|end|>", "<start_of_turn>", "<end_of_turn>",
)  # fmt: skip


class FollowUp(NamedTuple):
    """What a user says after an answer."""

    message: str
    """As a chat turn."""
    plain: str
    """As plain text between the answer before it and the answer to it."""


class Prompt(NamedTuple):
    """One row of a benchmark, ready to be written from."""

    prompt_id: str
    messages: list[Message]
    """The conversation that a chat template renders, the question last."""
    plain: str
    """The same for models with `prompt: plain`; it ends where the answer is to begin."""
    gold: dict
    """What `grade` compares with, under the hub's column names."""
    follow_ups: tuple[FollowUp, ...] = ()


class Verdict(NamedTuple):
    """A task's judgement of one text, and how it came about."""

    verdict: Judgement
    """What counts."""
    extracted: str | None
    """The part of the text that was compared with the gold answer; None where there was none."""
    strict: Judgement
    """Judged by the answer in the task's own format; `unknown` where the format is not kept."""
    flexible: Judgement
    """Judged by the most likely answer, whatever the format."""
    outcome: str | None = None
    """For code, how the program ended: an outcome of `fsgen.sandbox`."""
    detail: str | None = None
    """Why, where the verdict alone does not say it."""


def compare(said: str | None, expected: str) -> Judgement:
    """Right where the very same was said, unknown where nothing was."""
    if said is None:
        return "unknown"
    return "right" if said == expected else "wrong"


def prefer_strict(strict: Judgement, flexible: Judgement) -> Judgement:
    """The verdict that counts: strict's, unless the format was not kept."""
    return flexible if strict == "unknown" else strict


def refuse_shots(title: str, dataset: DatasetConfig) -> None:
    """Complaint where solved problems are asked of a benchmark that shows none."""
    if dataset.shots:
        raise UserError(f"{title} shows no solved problems, got {dataset.shots} shots; set shots to 0.")


def ask(system: str, examples: list[tuple[str, str]], question: str) -> list[Message]:
    """A conversation whose earlier turns are solved examples."""
    turns = [{"role": "system", "content": system}]
    for asked, answered in examples:
        turns += [{"role": "user", "content": asked}, {"role": "assistant", "content": answered}]
    return [*turns, {"role": "user", "content": question}]


def ask_plainly(examples: list[tuple[str, str]], question: str) -> str:
    """The same as question-and-answer blocks that end where the answer is to begin."""
    blocks = [f"Question: {asked}\nAnswer: {answered}" for asked, answered in examples]
    return "\n\n".join([*blocks, f"Question: {question}\nAnswer:"])


def truncate_at_stop(text: str, stops: tuple[str, ...]) -> str:
    """The text before its first stop string."""
    return text[: min((at for stop in stops if (at := text.find(stop)) >= 0), default=len(text))]
