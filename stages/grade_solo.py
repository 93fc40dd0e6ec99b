"""Grade what one model wrote alone.

python stages/grade_solo.py --model arith-23k
"""

from fsgen import console, grading, settings


def main(model: str) -> None:
    grading.grade_solo(settings.load(), model)


if __name__ == "__main__":
    console.run(main)
