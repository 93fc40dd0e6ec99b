"""Tables of the laws of CoF: points, fits, predictions, and how many points exceed the published claim."""

import pyarrow as pa

from fsgen.tables import parquet

CLAIMED_COF = 0.20  # FS-GEN's abstract (arXiv 2406.12295): fewer than 20 % of the tokens need the large model

_TEXT, _NUMBER, _COUNT, _YES = pa.string(), pa.float64(), pa.int64(), pa.bool_()

_SERIES = [("method", _TEXT, "method of the series"), ("dataset", _TEXT, "dataset of the series")]

_LAW = [*_SERIES, ("law", _TEXT, "power, log_ratio, two_size, product or gap")]

_SIZES = [
    ("small_b", _NUMBER, "the small model's size as laws use it, in billions of parameters"),
    ("large_b", _NUMBER, "the large model's size as laws use it, in billions of parameters"),
]

SERIES_TABLES = {
    "points": parquet.schema(
        [
            *_SERIES,
            ("pair", _TEXT, "the pair"),
            ("small", _TEXT, "the small model"),
            ("large", _TEXT, "the large model"),
            *_SIZES,
            ("small_total_b", _NUMBER, "all parameters of the small model, in billions"),
            ("large_total_b", _NUMBER, "all parameters of the large model, in billions"),
            ("small_entropy", _NUMBER, "mean entropy of the small model on its own text, in nats"),
            ("cof", _NUMBER, "collaboration frequency"),
            ("low", _NUMBER, "lower end of its 95 % interval over prompts"),
            ("high", _NUMBER, "upper end of its 95 % interval over prompts"),
            ("tokens", _COUNT, "tokens counted"),
            ("prompts", _COUNT, "prompts counted"),
        ]
    ),
    "fits": parquet.schema(
        [
            *_LAW,
            ("n", _COUNT, "pairs fitted"),
            ("distinct_models", _COUNT, "models that these pairs are made of"),
            ("identified", _YES, "whether these are at least 6"),
            ("r2", _NUMBER, "share of the variance of CoF that the law explains"),
            ("aicc", _NUMBER, "Akaike's criterion, corrected for few pairs; lower is better"),
            ("loo_rmse", _NUMBER, "error of predicting a pair from the other pairs"),
            ("small_out_rmse", _NUMBER, "error of predicting a pair from those with other small models"),
            ("at_bound", _YES, "whether a parameter lies on the edge of where it was searched"),
        ]
    ),
    "parameters": parquet.schema(
        [
            *_LAW,
            ("parameter", _TEXT, "name of the parameter"),
            ("value", _NUMBER, "its least squares estimate"),
            ("profile_low", _NUMBER, "lower end of the 95 % profile interval; null: unbounded"),
            ("profile_high", _NUMBER, "upper end of the 95 % profile interval; null: unbounded"),
            (
                "model_low",
                _NUMBER,
                "lower end of the 95 % jackknife interval over models; null: not identified",
            ),
            ("model_high", _NUMBER, "upper end of the 95 % jackknife interval over models"),
        ]
    ),
    "errors": parquet.schema(
        [
            *_LAW,
            ("left_out", _TEXT, "pair: the pair alone; small: every pair with its small model"),
            ("pair", _TEXT, "the pair predicted"),
            *_SIZES,
            ("cof", _NUMBER, "collaboration frequency measured"),
            ("predicted", _NUMBER, "what the law fitted to the pairs left predicts"),
        ]
    ),
    "curves": parquet.schema([*_LAW, *_SIZES, ("cof", _NUMBER, "what the fitted law gives")]),
    "claims": parquet.schema(
        [
            ("method", _TEXT, "method, or all"),
            ("dataset", _TEXT, "dataset, or all"),
            ("cells", _COUNT, "pairs counted"),
            ("above", _COUNT, f"pairs with a CoF above {CLAIMED_COF}"),
            ("share", _NUMBER, "above / cells"),
            ("low", _NUMBER, "lower end of Wilson's 95 % interval over cells, taken as independent"),
            ("high", _NUMBER, "upper end of Wilson's 95 % interval over cells"),
        ]
    ),
}


TABLES = SERIES_TABLES | {
    "covariates": parquet.schema(
        [
            ("method", pa.string(), "method of the series"),
            ("dataset", pa.string(), "dataset of the series"),
            ("predictor", pa.string(), "sizes (log10 of both), entropy (the small model's), or both"),
            ("n", pa.int64(), "pairs fitted"),
            ("loo_rmse", pa.float64(), "error of predicting a pair from the other pairs"),
            ("small_out_rmse", pa.float64(), "error of predicting a pair from those with other small models"),
        ]
    ),
    "foretold": parquet.schema(
        [
            ("method", pa.string(), "method of the series, in the published table and here"),
            ("dataset", pa.string(), "its dataset, likewise"),
            ("pair", pa.string(), "the pair, which no law saw"),
            ("small_total_b", pa.float64(), "all parameters of its small model, in billions"),
            ("large_total_b", pa.float64(), "all parameters of its large model, in billions"),
            ("cof", pa.float64(), "collaboration frequency measured here"),
            ("low", pa.float64(), "lower end of its 95 % interval over prompts"),
            ("high", pa.float64(), "upper end of its 95 % interval over prompts"),
            ("law", pa.string(), "the law, fitted to the published series"),
            ("models", pa.int64(), "distinct models of that series"),
            ("predicted", pa.float64(), "collaboration frequency by that law, asked with all parameters"),
            ("predicted_low", pa.float64(), "lower end of its 95 % interval for two unseen models, or null"),
            ("predicted_high", pa.float64(), "upper end of that interval"),
            ("inside", pa.bool_(), "whether cof lies in the prediction's interval"),
            ("agrees", pa.bool_(), "whether the two intervals share a number"),
            ("extrapolates", pa.string(), "sizes or ratio outside those fitted, a sentence each"),
        ]
    ),
}
