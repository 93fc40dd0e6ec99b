"""Fuse the dumps of a pair: every method's token at every position.

python stages/fuse.py --pair arith-23k-451k
"""

from fsgen.collaboration import fuse
from fsgen.config.load import load_settings
from fsgen.execution import console


def main(pair: str) -> None:
    fuse.fuse_pair(load_settings(), pair)


if __name__ == "__main__":
    console.run(main)
