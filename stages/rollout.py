"""Let a pair's policies write their own texts.

python stages/rollout.py --pair arith-23k-451k
"""

from fsgen.config.load import load_settings
from fsgen.decoding.rollout import rollout
from fsgen.execution import console


def main(pair: str) -> None:
    rollout.rollout(load_settings(), pair)


if __name__ == "__main__":
    console.run(main)
