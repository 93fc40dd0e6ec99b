"""A pair's policies write their own texts.

python stages/rollout.py --pair arith-23k-451k
"""

from fsgen import console, rollout, settings


def main(pair: str) -> None:
    rollout.roll_out(settings.load(), pair)


if __name__ == "__main__":
    console.run(main)
