"""Grade the texts of one model alone.

python stages/grade_models.py --model arith-23k
"""

from fsgen.config.load import load_settings
from fsgen.execution import console
from fsgen.tasks import grade


def main(model: str) -> None:
    grade.grade_models(load_settings(), model)


if __name__ == "__main__":
    console.run(main)
