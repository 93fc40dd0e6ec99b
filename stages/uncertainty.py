"""Ask how well the small model's uncertainty tells mismatches from matches.

python stages/uncertainty.py
"""

from fsgen import console, settings, uncertainty


def main() -> None:
    uncertainty.write_uncertainty(settings.load())


if __name__ == "__main__":
    console.run(main)
