"""A pair's large model reads what the default speakers wrote.

python stages/dump_large.py --pair arith-23k-451k
"""

from fsgen import console, reading, settings


def main(pair: str) -> None:
    reading.dump_large(settings.load(), pair)


if __name__ == "__main__":
    console.run(main)
