"""Train one base model of the embedded family.

python stages/train.py --model base-23k
"""

from fsgen.config.load import load_settings
from fsgen.execution import console
from fsgen.models import family


def main(model: str) -> None:
    family.train(load_settings(), model)


if __name__ == "__main__":
    console.run(main)
