"""Measure what every kind of interval covers, in simulated worlds where the truth is known.

python benchmarks/coverage.py   # some minutes; then python benchmarks/table.py
"""

import importlib
import json
from pathlib import Path

WORLDS = ("coverage_prompts", "coverage_ranking", "coverage_laws")
RESULTS = Path(__file__).parent / "results" / "coverage"
REPLICATES = {"coverage_prompts": 2000, "coverage_ranking": 500, "coverage_laws": 1000}
SEED = 7

if __name__ == "__main__":
    RESULTS.mkdir(exist_ok=True)
    for name in WORLDS:
        rows = [*importlib.import_module(name).measure(REPLICATES[name], SEED)]
        (RESULTS / f"{name}.json").write_text(json.dumps(rows, indent=1) + "\n")
        for row in rows:
            print(row)
