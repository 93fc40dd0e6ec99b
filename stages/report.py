"""Draw the figures and print the headline table.

python stages/report.py
"""

from fsgen import console, report, settings


def main() -> None:
    report.write_report(settings.load())


if __name__ == "__main__":
    console.run(main)
