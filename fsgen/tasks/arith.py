"""arith: grade-school word problems with worked steps, graded like GSM8K; see `arith_problems`."""

import random
import re

from fsgen.config.schema import DatasetConfig
from fsgen.tasks import arith_problems
from fsgen.tasks.protocol import Prompt, Task, Verdict, judge_answers, refuse_shots

ANSWER = r"#### \d+"
POOL = 2000  # held-out problems that a dataset can draw on
POOL_SEED = 20240618


def prompts(dataset: DatasetConfig) -> list[Prompt]:
    """The held-out pool. No examples are shown, since the embedded family is trained on the format."""
    refuse_shots("arith", dataset)
    return [_prompt(f"arith-{i:05d}", *item) for i, item in enumerate(_held_out_answers().items())]


def _prompt(prompt_id: str, question: str, answer: str) -> Prompt:
    return Prompt(prompt_id, [{"role": "user", "content": question}], question, {"answer": answer})


def _held_out_answers() -> dict[str, str]:
    """POOL distinct held-out questions, each with its worked answer."""
    rng = random.Random(POOL_SEED)
    answers: dict[str, str] = {}
    while len(answers) < POOL:
        problem = arith_problems.make_problem(rng)
        if arith_problems.is_held_out(problem.question) and problem.question not in answers:
            answers[problem.question] = arith_problems.write_answer(problem.steps, problem.answer)
    return answers


def grade(text: str, gold: dict) -> Verdict:
    """Strict: the number after the last `####`. Flexible: the last number. Strict counts if it finds one."""
    expected = int(re.search(r"#### (\d+)", gold["answer"]).group(1))
    marked = re.findall(r"####\s*(\d+)", text)
    numbers = re.findall(r"\d+", text)
    strict, flexible = (matches[-1] if matches else None for matches in (marked, numbers))
    return judge_answers(strict, flexible, lambda answer: int(answer) == expected)


TASK = Task(prompts=prompts, grade=grade, gold=("answer",), answer=ANSWER, test_prompts=200, prompt_tokens=40)
