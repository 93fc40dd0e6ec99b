"""Count everything per prompt, then report it with intervals.

python stages/evaluate.py --dataset arith
"""

from fsgen import console, evaluation, settings


def main(dataset: str) -> None:
    evaluation.evaluate(settings.load(), dataset)


if __name__ == "__main__":
    console.run(main)
