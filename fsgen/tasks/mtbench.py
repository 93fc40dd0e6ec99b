"""MT-Bench (arXiv 2306.05685): 80 open questions in two turns each, rated by a judge.

The second question's prompt holds the first answer of whoever is writing. The hub's copy is
lighteval/mt-bench; a local file has the columns of the original question.jsonl.
"""

from fsgen.config.schema import DatasetConfig
from fsgen.tasks import sources
from fsgen.tasks.graders.judge import Request
from fsgen.tasks.protocol import END_TOKENS, FollowUp, Prompt, ask_plainly, refuse_shots
from fsgen.tasks.sources import Source

SOURCE = Source("MT-Bench", "lighteval/mt-bench", None, {"question_id": int, "category": str, "turns": list})
GOLD = ("category", "turns")
STOPS = ("\nQuestion:",)
STOP_TOKENS = END_TOKENS
ANSWER = None


def prompts(dataset: DatasetConfig) -> list[Prompt]:
    """A prompt for every question, its later turns as follow-ups. There is one split, whatever is named."""
    refuse_shots("MT-Bench", dataset)
    return [_prompt(row) for row in sources.read(SOURCE, "train", dataset.path, stem="question")]


def _prompt(row: dict) -> Prompt:
    first, *later = row["turns"]
    gold = {column: row[column] for column in GOLD}
    if row.get("reference"):
        gold["reference"] = row["reference"]
    return Prompt(
        f"mtbench-{row['question_id']:03d}",
        [{"role": "user", "content": first}],
        ask_plainly([], first),
        gold,
        # one line break: what a model that runs on into the next question has already written
        tuple(FollowUp(question, f"\n{ask_plainly([], question)}") for question in later),
    )


def requests(answers: list[str], gold: dict) -> list[Request]:
    """What a judge is asked about a conversation, one request a turn."""
    reference = tuple(gold["reference"]) if gold.get("reference") else None
    return [
        Request(gold["category"], tuple(gold["turns"][:count]), tuple(answers[:count]), reference)
        for count in range(1, len(answers) + 1)
    ]
