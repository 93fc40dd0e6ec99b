"""A pair's models look closely at texts that its policies wrote.

python stages/close_up.py --pair arith-23k-451k
"""

from fsgen import closeups, console, settings


def main(pair: str) -> None:
    closeups.close_up(settings.load(), pair)


if __name__ == "__main__":
    console.run(main)
