"""Record all models of a pair on texts that its policies wrote.

python stages/dump_rollouts.py --pair arith-23k-451k
"""

from fsgen.config.load import load_settings
from fsgen.decoding import dump_rollouts
from fsgen.execution import console


def main(pair: str) -> None:
    dump_rollouts.dump_rollouts(load_settings(), pair)


if __name__ == "__main__":
    console.run(main)
