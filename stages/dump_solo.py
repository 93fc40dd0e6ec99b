"""One model answers every prompt and leaves its logits.

python stages/dump_solo.py --model arith-23k
"""

from fsgen import console, decoding, settings


def main(model: str) -> None:
    decoding.dump_solo(settings.load(), model)


if __name__ == "__main__":
    console.run(main)
