"""Fine-tune one model of the embedded family.

python stages/tune.py --model tuned-23k
"""

from fsgen import console, family, settings


def main(model: str) -> None:
    family.tune(settings.load(), model)


if __name__ == "__main__":
    console.run(main)
