"""Record a pair's large model on the texts of its small and tuned ones.

python stages/dump_large.py --pair arith-23k-451k
"""

from fsgen.config.load import load_settings
from fsgen.decoding import dump_teacher_forced
from fsgen.execution import console


def main(pair: str) -> None:
    dump_teacher_forced.dump_large(load_settings(), pair)


if __name__ == "__main__":
    console.run(main)
