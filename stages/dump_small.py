"""Record a pair's small and tuned models on the large model's texts and their own.

python stages/dump_small.py --pair arith-23k-451k
"""

from fsgen.config.load import load_settings
from fsgen.decoding import dump_teacher_forced
from fsgen.execution import console


def main(pair: str) -> None:
    dump_teacher_forced.dump_small(load_settings(), pair)


if __name__ == "__main__":
    console.run(main)
