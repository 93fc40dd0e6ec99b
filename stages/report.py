"""Draw the figures, write the page, and print the summary table.

python stages/report.py
"""

from fsgen.config.load import load_settings
from fsgen.execution import console
from fsgen.report import report


def main() -> None:
    report.write_report(load_settings())


if __name__ == "__main__":
    console.run(main)
