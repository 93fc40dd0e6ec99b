"""Describe one model: files, tokenizer, sizes, vocabulary; refuse a pair that cannot be fused.

python stages/model.py --model arith-23k
"""

from fsgen import checkpoints, console, settings, vocabulary


def main(model: str) -> None:
    loaded = settings.load()
    checkpoints.write_description(loaded, model)
    vocabulary.write_vocabulary(loaded, model)


if __name__ == "__main__":
    console.run(main)
