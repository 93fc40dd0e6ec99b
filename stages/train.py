"""Train one base model of the embedded family.

python stages/train.py --model base-23k
"""

from fsgen import console, family, settings


def main(model: str) -> None:
    family.train(settings.load(), model)


if __name__ == "__main__":
    console.run(main)
