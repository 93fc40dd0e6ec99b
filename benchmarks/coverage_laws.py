"""How often the laws' intervals hold the truth in simulation, beside their nominal level.

python benchmarks/coverage_laws.py   (prints JSON; minutes)

Models have sizes evenly spread in logarithm from 0.5 to 72 billion, every two of them make a pair, and
CoF follows `two_size` plus errors. `profile`: independent errors of pairs, as its formula supposes.
`jackknife` and `prediction`: a model brings its own error wherever it serves as the large or as the small
one. The pair to predict is of two other models, of sizes drawn evenly in logarithm from the same range.
"""

import json

import numpy as np
import polars as pl

from fsgen.analysis.scaling import law_intervals, laws, prediction

LAW, TRUTH_K = "two_size", (0.12, 0.03, -0.05)
MODELS = (5, 6, 7, 10)
NOMINAL = 0.95
# standard deviations of errors of large models, small models and pairs: medians over the twelve published
# series of what restricted maximum likelihood finds around `two_size`
LARGE, SMALL, PAIR = 0.008, 0.003, 0.0075


def main() -> None:
    print(json.dumps(measure(replicates=2000, seed=20240618), indent=2))


def measure(replicates: int, seed: int) -> list[dict]:
    """Rows of kind, size (models), nominal, measured and replicates; measured is None without an interval.

    A parameter's interval has a row a parameter, its kind naming the parameter.
    """
    generator = np.random.Generator(np.random.PCG64(seed))
    rows = []
    for size in MODELS:
        drawn = [_replicate(generator, size) for _ in range(replicates)]
        for kind in drawn[0]:
            held = [one[kind] for one in drawn if one[kind] is not None]
            measured = float(np.mean(held)) if held else None
            about = {"kind": kind, "size": size, "unit": "models", "nominal": NOMINAL}
            rows.append(about | {"measured": measured, "replicates": replicates})
    return rows


def _replicate(generator: np.random.Generator, size: int) -> dict[str, bool | None]:
    """Whether each interval of one simulated series holds what it is about."""
    sizes = np.geomspace(0.5, 72.0, size)
    small, large = np.triu_indices(size, 1)
    small_P, large_P = sizes[small], sizes[large]
    names_P2 = np.column_stack([small, large])
    law_P = laws.two_size(small_P, large_P, *TRUTH_K)
    pair_P = generator.normal(0, PAIR, len(small))
    models_P = generator.normal(0, LARGE, size)[large] + generator.normal(0, SMALL, size)[small]
    held = {}
    for name, bounds in law_intervals.profile(LAW, small_P, large_P, law_P + pair_P).items():
        held[f"two_size law, {name} (profile, pairs independent)"] = _holds(
            bounds, TRUTH_K[laws.LAWS[LAW].parameters.index(name)]
        )
    crossed_P = law_P + pair_P + models_P
    for name, bounds in law_intervals.jackknife(LAW, small_P, large_P, crossed_P, names_P2).items():
        held[f"two_size law, {name} (jackknife over models, t)"] = _holds(
            bounds, TRUTH_K[laws.LAWS[LAW].parameters.index(name)]
        )
    columns = {"small": small, "large": large, "small_b": small_P, "large_b": large_P, "cof": crossed_P}
    small_b, large_b = np.exp(np.sort(generator.uniform(np.log(0.5), np.log(72.0), 2)))
    unseen = laws.two_size(small_b, large_b, *TRUTH_K) + generator.normal(0, [LARGE, SMALL, PAIR]).sum()
    for law in prediction.PREFERRED:
        result = prediction.predict(pl.DataFrame(columns), law, large_b, small_b, NOMINAL)
        held[f"unseen pair by {law} (both models left out, t)"] = _holds((result.low, result.high), unseen)
    return held


def _holds(bounds: tuple[float | None, float | None], truth: float) -> bool | None:
    return None if None in bounds else bool(bounds[0] <= truth <= bounds[1])


if __name__ == "__main__":
    main()
