"""Grade what a pair's policies wrote.

python stages/grade.py --pair arith-23k-451k
"""

from fsgen import console, grading, settings


def main(pair: str) -> None:
    grading.grade_pair(settings.load(), pair)


if __name__ == "__main__":
    console.run(main)
