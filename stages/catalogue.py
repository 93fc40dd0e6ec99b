"""List what is run: models with their sizes, pairs by role, policies in their parts.

python stages/catalogue.py
"""

from fsgen.analysis import catalogue
from fsgen.config.load import load_settings
from fsgen.execution import console


def main() -> None:
    catalogue.write_catalogue(load_settings())


if __name__ == "__main__":
    console.run(main)
