"""Fit the laws of collaboration frequency in model size.

python stages/scaling.py
"""

from fsgen import console, report, settings


def main() -> None:
    report.write_scaling(settings.load())


if __name__ == "__main__":
    console.run(main)
