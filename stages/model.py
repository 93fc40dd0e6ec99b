"""Describe one model (files, tokenizer, sizes, vocabulary), and refuse a pair that cannot be fused.

python stages/model.py --model arith-23k
"""

from fsgen.config.load import load_settings
from fsgen.execution import console
from fsgen.models import description, vocabulary


def main(model: str) -> None:
    settings = load_settings()
    description.write_description(settings, model)
    vocabulary.write_vocabulary(settings, model)


if __name__ == "__main__":
    console.run(main)
