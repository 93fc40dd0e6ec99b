"""Let one model answer every prompt, with a record of each token.

python stages/dump_solo.py --model arith-23k
"""

from fsgen.config.load import load_settings
from fsgen.decoding import dump_solo
from fsgen.execution import console


def main(model: str) -> None:
    dump_solo.dump_solo(load_settings(), model)


if __name__ == "__main__":
    console.run(main)
