"""A pair's small and tuned models read the large model's text and their own.

python stages/dump_small.py --pair arith-23k-451k
"""

from fsgen import console, reading, settings


def main(pair: str) -> None:
    reading.dump_small(settings.load(), pair)


if __name__ == "__main__":
    console.run(main)
