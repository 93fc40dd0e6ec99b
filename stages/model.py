"""Describe one model: files, tokenizer, sizes; refuse a pair that cannot be fused.

python stages/model.py --model arith-23k
"""

from fsgen import checkpoints, console, settings


def main(model: str) -> None:
    checkpoints.write_description(settings.load(), model)


if __name__ == "__main__":
    console.run(main)
