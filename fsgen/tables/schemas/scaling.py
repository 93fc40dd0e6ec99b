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
    "scaling_points": parquet.schema(
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
            ("cof_low", _NUMBER, "lower end of its 95 % interval over prompts"),
            ("cof_high", _NUMBER, "upper end of its 95 % interval over prompts"),
            ("tokens", _COUNT, "tokens counted"),
            ("prompts", _COUNT, "prompts counted"),
        ]
    ),
    "scaling_fits": parquet.schema(
        [
            *_LAW,
            ("pairs", _COUNT, "pairs that the law is fitted to"),
            ("models", _COUNT, "distinct models in these pairs"),
            ("identified", _YES, "whether there are at least 6 distinct models"),
            ("r2", _NUMBER, "share of the variance of CoF that the law explains"),
            ("aicc", _NUMBER, "Akaike's criterion, corrected for few pairs; lower is better"),
            ("loo_rmse", _NUMBER, "error of predicting a pair from the other pairs"),
            ("small_out_rmse", _NUMBER, "error of predicting a pair from those with other small models"),
            ("at_bound", _YES, "whether a parameter lies on a bound of the search"),
        ]
    ),
    "scaling_parameters": parquet.schema(
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
    "scaling_held_out": parquet.schema(
        [
            *_LAW,
            ("held_out", _TEXT, "pair: that pair alone; small: every pair with its small model"),
            ("pair", _TEXT, "the pair predicted"),
            *_SIZES,
            ("cof", _NUMBER, "collaboration frequency measured"),
            ("predicted", _NUMBER, "prediction of the law fitted to the other pairs"),
        ]
    ),
    "scaling_curves": parquet.schema(
        [*_LAW, *_SIZES, ("cof", _NUMBER, "collaboration frequency by the fitted law")]
    ),
    "scaling_claims": parquet.schema(
        [
            ("method", _TEXT, "method, or all"),
            ("dataset", _TEXT, "dataset, or all"),
            ("pairs", _COUNT, "pairs counted"),
            ("above", _COUNT, f"pairs with a CoF above {CLAIMED_COF}"),
            ("share", _NUMBER, "above / pairs"),
            ("share_low", _NUMBER, "lower end of Wilson's 95 % interval, pairs taken as independent"),
            ("share_high", _NUMBER, "upper end"),
        ]
    ),
}


TABLES = SERIES_TABLES | {
    "scaling_covariates": parquet.schema(
        [
            ("method", pa.string(), "method of the series"),
            ("dataset", pa.string(), "dataset of the series"),
            ("predictor", pa.string(), "sizes (log10 of both), entropy (the small model's), or both"),
            ("pairs", pa.int64(), "pairs that the regression is fitted to"),
            ("loo_rmse", pa.float64(), "error of predicting a pair from the other pairs"),
            ("small_out_rmse", pa.float64(), "error of predicting a pair from those with other small models"),
        ]
    ),
    "scaling_predictions": parquet.schema(
        [
            ("method", pa.string(), "method of the series, in both the published table and this project"),
            ("dataset", pa.string(), "dataset of the series, in both"),
            ("pair", pa.string(), "the pair, to which no law was fitted"),
            ("small_total_b", pa.float64(), "all parameters of its small model, in billions"),
            ("large_total_b", pa.float64(), "all parameters of its large model, in billions"),
            ("cof", pa.float64(), "collaboration frequency measured in this project"),
            ("cof_low", pa.float64(), "lower end of its 95 % interval over prompts"),
            ("cof_high", pa.float64(), "upper end of its 95 % interval over prompts"),
            ("law", pa.string(), "the law, fitted to the published series"),
            ("models", pa.int64(), "distinct models of that series"),
            (
                "predicted",
                pa.float64(),
                "collaboration frequency by that law, given all parameters of both models",
            ),
            ("predicted_low", pa.float64(), "lower end of its 95 % interval for two unseen models, or null"),
            ("predicted_high", pa.float64(), "upper end of that interval"),
            ("within_interval", pa.bool_(), "whether cof lies in the prediction's interval"),
            ("intervals_overlap", pa.bool_(), "whether the two intervals overlap"),
            (
                "extrapolation_note",
                pa.string(),
                "sizes or size ratio outside the fitted range, a sentence each",
            ),
        ]
    ),
}
