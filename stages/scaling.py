"""Fit the laws of collaboration frequency in model size.

python stages/scaling.py
"""

from fsgen import console, scaling, settings


def main() -> None:
    scaling.write_scaling(settings.load())


if __name__ == "__main__":
    console.run(main)
