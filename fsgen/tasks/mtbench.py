"""MT-Bench (arXiv 2306.05685): 80 open questions in two turns each, rated by a judge.

The second question's prompt holds the first answer of whoever is writing. The hub's copy is
lighteval/mt-bench; a local file has the columns of the original question.jsonl.
"""

from fsgen.config.schema import DatasetConfig
from fsgen.tasks import sources
from fsgen.tasks.graders.judge import Request
from fsgen.tasks.protocol import (
    END_TOKENS,
    NEXT_QUESTION,
    FollowUp,
    Prompt,
    Task,
    build_plain_text,
    refuse_shots,
)
from fsgen.tasks.sources import Source

SOURCE = Source("MT-Bench", "lighteval/mt-bench", None, {"question_id": int, "category": str, "turns": list})
GOLD = ("category", "turns")


def prompts(dataset: DatasetConfig) -> list[Prompt]:
    """A prompt for every question, its later turns as follow-ups; the one split has no name."""
    refuse_shots("MT-Bench", dataset)
    return [_prompt(row) for row in sources.read(SOURCE, "train", dataset.path, stem="question")]


def _prompt(row: dict) -> Prompt:
    first, *later = row["turns"]
    gold = {column: row[column] for column in GOLD}
    if row.get("reference"):
        gold["reference"] = row["reference"]
    return Prompt(
        prompt_id=f"mtbench-{row['question_id']:03d}",
        messages=[{"role": "user", "content": first}],
        plain=build_plain_text([], first),
        gold=gold,
        # one line break: a model that continues with the next question has written it already
        follow_ups=tuple(FollowUp(question, f"\n{build_plain_text([], question)}") for question in later),
    )


def requests(answers: list[str], gold: dict) -> list[Request]:
    """The requests to a judge about a conversation, one a turn."""
    reference = tuple(gold["reference"]) if gold.get("reference") else None
    return [
        Request(gold["category"], tuple(gold["turns"][:count]), tuple(answers[:count]), reference)
        for count in range(1, len(answers) + 1)
    ]


TASK = Task(
    prompts=prompts,
    requests=requests,
    gold=GOLD,
    stops=(NEXT_QUESTION,),
    stop_tokens=END_TOKENS,
    test_prompts=80,
    prompt_tokens=72,
    turns=2,
)
