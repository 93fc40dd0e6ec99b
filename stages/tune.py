"""Fine-tune one model of the embedded family.

python stages/tune.py --model tuned-23k
"""

from fsgen.config.load import load_settings
from fsgen.execution import console
from fsgen.models import family


def main(model: str) -> None:
    family.tune(load_settings(), model)


if __name__ == "__main__":
    console.run(main)
