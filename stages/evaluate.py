"""Count a dataset's policies prompt by prompt, and write the counts as metrics with intervals.

python stages/evaluate.py --dataset arith
"""

from fsgen.analysis import evaluate
from fsgen.config.load import load_settings
from fsgen.execution import console


def main(dataset: str) -> None:
    evaluate.evaluate(load_settings(), dataset)


if __name__ == "__main__":
    console.run(main)
