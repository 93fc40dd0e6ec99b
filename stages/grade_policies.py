"""Grade the texts of a pair's policies.

python stages/grade_policies.py --pair arith-23k-451k
"""

from fsgen.config.load import load_settings
from fsgen.execution import console
from fsgen.tasks import grade


def main(pair: str) -> None:
    grade.grade_pair(load_settings(), pair)


if __name__ == "__main__":
    console.run(main)
