"""Draw the figures and print the headline table.

python stages/report.py
"""

from fsgen import console, settings
from fsgen.report import writing


def main() -> None:
    writing.write_report(settings.load())


if __name__ == "__main__":
    console.run(main)
