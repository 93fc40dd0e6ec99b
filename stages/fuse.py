"""Every method's token at every dumped position of a pair.

python stages/fuse.py --pair arith-23k-451k
"""

from fsgen import console, fusing, settings


def main(pair: str) -> None:
    fusing.fuse_pair(settings.load(), pair)


if __name__ == "__main__":
    console.run(main)
