"""arith: grade-school word problems with worked steps, generated from a seed and graded like GSM8K.

    Tom has 48 coins . Mia owns 7 pens . Tom finds 24 more . Tom sells 30 . how many coins has Tom ?
    48 + 24 = 72 . 72 - 30 = 42 . #### 42

A problem is held out for evaluation if a hash of its question says so; training never sees those.
"""

import hashlib
import random
import re

from fsgen.config.schema import DatasetConfig
from fsgen.tasks.protocol import Judgement, Prompt, Verdict, prefer_strict, refuse_shots

GOLD = ("answer",)
STOPS = ()
STOP_TOKENS = ()
ANSWER = r"#### \d+"
POOL = 2000  # held-out problems that a dataset can draw on
POOL_SEED = 20240618
NAMES = ["Tom", "Mia", "Ben", "Eva", "Sam", "Zoe", "Max", "Ida", "Leo", "Amy", "Dan", "Lea"]
THINGS = ["coins", "pens", "books", "cards", "shells", "stamps", "apples", "beads", "keys", "cups"]
GAINS = ("finds {n} more", "buys {n} more", "gets {n} from {other}", "wins {n} more")
LOSSES = ("sells {n}", "loses {n}", "gives {n} to {other}", "drops {n}")
GROWTHS = ("then has {n} times as many", "makes it {n} times as many")
ASIDES = ("{other} owns {n} {thing}", "{other} is {n} years old", "the shop has {n} {thing}", "it is day {n}")
LARGEST = 999


def make_problem(chance: random.Random) -> tuple[str, list[str], int]:
    """A question, its worked steps and its answer.

    Amounts have at most two digits, totals at most three, and none falls below 0.
    """
    name, *others = chance.sample(NAMES, 3)
    thing, other_thing = chance.sample(THINGS, 2)
    total = chance.randrange(2, 100)
    said, steps = [f"{name} has {total} {thing}"], []
    for _ in range(chance.randrange(1, 6)):
        if chance.random() < 0.2:
            said.append(_aside(chance, others[0], other_thing))
        sentence, step, total = _take_step(chance, name, others[1], total)
        said.append(sentence)
        steps.append(step)
    question = " . ".join([*said, f"how many {thing} has {name} ?"])
    return question, steps, total


def _aside(chance: random.Random, other: str, thing: str) -> str:
    """A sentence with a number that plays no part."""
    return chance.choice(ASIDES).format(other=other, thing=thing, n=chance.randrange(2, 100))


def _take_step(chance: random.Random, name: str, other: str, total: int) -> tuple[str, str, int]:
    """A sentence that changes the total, the step that works it out, and the new total."""
    kind = chance.choices("+-*", weights=(0.4, 0.4, 0.2))[0]
    if kind == "*" and total < 50:
        n = chance.randint(2, 4)
        phrase, after = chance.choice(GROWTHS), total * n
    elif (kind == "-" and total >= 4) or total > LARGEST - 2:
        kind, n = "-", chance.randrange(2, min(total, 50))
        phrase, after = chance.choice(LOSSES), total - n
    else:
        kind, n = "+", chance.randint(2, min(49, LARGEST - total))
        phrase, after = chance.choice(GAINS), total + n
    return f"{name} {phrase.format(n=n, other=other)}", f"{total} {kind} {n} = {after}", after


def is_held_out(question: str) -> bool:
    """Whether a problem belongs to evaluation: one in 16 does, by a hash of its question."""
    return hashlib.sha256(question.encode()).digest()[0] < 16


def training_problems(chance: random.Random, count: int) -> list[tuple[str, list[str], int]]:
    """Problems that no evaluation holds."""
    made = []
    while len(made) < count:
        problem = make_problem(chance)
        if not is_held_out(problem[0]):
            made.append(problem)
    return made


def write_answer(steps: list[str], answer: int) -> str:
    """The worked answer in the target format."""
    return " ".join([f"{step} ." for step in steps] + [f"#### {answer}"])


def prompts(dataset: DatasetConfig) -> list[Prompt]:
    """The held-out pool; nothing is shown, since the family was trained on the format."""
    refuse_shots("arith", dataset)
    chance, found = random.Random(POOL_SEED), {}
    while len(found) < POOL:
        question, steps, answer = make_problem(chance)
        if is_held_out(question) and question not in found:
            found[question] = write_answer(steps, answer)
    return [
        Prompt(f"arith-{i:05d}", [{"role": "user", "content": question}], question, {"answer": answer})
        for i, (question, answer) in enumerate(found.items())
    ]


def grade(text: str, gold: dict) -> Verdict:
    """Strict: the number after the last `####`. Flexible: the last number. Strict counts if it finds one."""
    expected = re.search(r"#### (\d+)", gold["answer"]).group(1)
    strict = re.findall(r"####\s*(\d+)", text)[-1:]
    flexible = re.findall(r"\d+", text)[-1:]
    judged = _compare(strict, expected), _compare(flexible, expected)
    return Verdict(prefer_strict(*judged), (strict or flexible or [None])[0], *judged)


def _compare(said: list[str], gold: str) -> Judgement:
    if not said:
        return "unknown"
    return "right" if int(said[0]) == int(gold) else "wrong"
