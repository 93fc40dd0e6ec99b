"""Word problems for `arith` and for the training of the embedded family, generated from a random state.

    Tom has 48 coins . Mia owns 7 pens . Tom finds 24 more . Tom sells 30 . how many coins has Tom ?
    48 + 24 = 72 . 72 - 30 = 42 . #### 42

A problem is held out for evaluation if a hash of its question says so; training never sees those. This module
imports nothing of fsgen, so only a change of the problems makes the committed checkpoints stale.
"""

import hashlib
import random
from typing import NamedTuple

NAMES = ["Tom", "Mia", "Ben", "Eva", "Sam", "Zoe", "Max", "Ida", "Leo", "Amy", "Dan", "Lea"]
THINGS = ["coins", "pens", "books", "cards", "shells", "stamps", "apples", "beads", "keys", "cups"]
GAINS = ("finds {n} more", "buys {n} more", "gets {n} from {other}", "wins {n} more")
LOSSES = ("sells {n}", "loses {n}", "gives {n} to {other}", "drops {n}")
GROWTHS = ("then has {n} times as many", "makes it {n} times as many")
ASIDES = ("{other} owns {n} {thing}", "{other} is {n} years old", "the shop has {n} {thing}", "it is day {n}")
LARGEST = 999


class Problem(NamedTuple):
    """A word problem."""

    question: str
    steps: list[str]
    """The worked steps, such as `48 + 24 = 72`."""
    answer: int


def make_problem(rng: random.Random) -> Problem:
    """A random problem: amounts have at most two digits, totals at most three, and none falls below 0."""
    name, *others = rng.sample(NAMES, 3)
    thing, other_thing = rng.sample(THINGS, 2)
    total = rng.randrange(2, 100)
    sentences, steps = [f"{name} has {total} {thing}"], []
    for _ in range(rng.randrange(1, 6)):
        if rng.random() < 0.2:
            sentences.append(_make_aside(rng, others[0], other_thing))
        sentence, step, total = _take_step(rng, name, others[1], total)
        sentences.append(sentence)
        steps.append(step)
    question = " . ".join([*sentences, f"how many {thing} has {name} ?"])
    return Problem(question, steps, total)


def _make_aside(rng: random.Random, other: str, thing: str) -> str:
    """A sentence with a number that the answer does not depend on."""
    return rng.choice(ASIDES).format(other=other, thing=thing, n=rng.randrange(2, 100))


def _take_step(rng: random.Random, name: str, other: str, total: int) -> tuple[str, str, int]:
    """A sentence that changes the total, the step that computes it, and the new total."""
    operator = rng.choices("+-*", weights=(0.4, 0.4, 0.2))[0]
    if operator == "*" and total < 50:
        n = rng.randint(2, 4)
        phrase, new_total = rng.choice(GROWTHS), total * n
    elif (operator == "-" and total >= 4) or total > LARGEST - 2:
        operator, n = "-", rng.randrange(2, min(total, 50))
        phrase, new_total = rng.choice(LOSSES), total - n
    else:
        operator, n = "+", rng.randint(2, min(49, LARGEST - total))
        phrase, new_total = rng.choice(GAINS), total + n
    sentence = f"{name} {phrase.format(n=n, other=other)}"
    return sentence, f"{total} {operator} {n} = {new_total}", new_total


def is_held_out(question: str) -> bool:
    """Whether a problem belongs to evaluation: one in 16 does, by a hash of its question."""
    return hashlib.sha256(question.encode()).digest()[0] < 16


def training_problems(rng: random.Random, count: int) -> list[Problem]:
    """Problems that are not held out for evaluation."""
    problems = []
    while len(problems) < count:
        problem = make_problem(rng)
        if not is_held_out(problem.question):
            problems.append(problem)
    return problems


def write_answer(steps: list[str], answer: int) -> str:
    """The worked answer in the target format."""
    return " ".join([f"{step} ." for step in steps] + [f"#### {answer}"])
