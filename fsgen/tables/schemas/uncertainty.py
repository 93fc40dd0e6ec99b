"""Tables of the `uncertainty` stage: scores against mismatches, positions, projections."""

import pyarrow as pa

from fsgen.tables import parquet
from fsgen.tables.columns import with_interval

SERIES = [
    ("pair", pa.string(), "pair, a key of params.yaml"),
    ("method", pa.string(), "method whose mismatches these are"),
    (
        "writer",
        pa.string(),
        "role of the model that wrote the text: large, or the default model (small or tuned)",
    ),
]

SCORE = ("score", pa.string(), "entropy, max_probability, margin, logistic or svm; high means uncertain")

COUNTS = [
    ("tokens", pa.int64(), "answer tokens of test prompts"),
    ("mismatches", pa.int64(), "mismatches among them"),
]

DISCRIMINATION = parquet.schema(
    [
        *SERIES,
        SCORE,
        ("metric", pa.string(), "auroc, average_precision, or brier (of a score that is a probability)"),
        *with_interval("value", "the metric; null where all tokens are matches, or all mismatches"),
        *COUNTS,
        ("prompts", pa.int64(), "test prompts"),
    ]
)

CALIBRATION = parquet.schema(
    [
        *SERIES,
        SCORE,
        ("bin", pa.int64(), "decile of the tokens by score, from 0; the most uncertain last"),
        ("mean_score", pa.float64(), "mean score in the bin"),
        ("is_probability", pa.bool_(), "whether the score is a predicted probability of a mismatch"),
        ("predicted_rate", pa.float64(), "mean of that probability; null for other scores"),
        ("tokens", pa.int64(), "tokens in the bin"),
        *with_interval("observed_rate", "share of mismatches in the bin"),
    ]
)

LORENZ = parquet.schema(
    [
        *SERIES,
        SCORE,
        ("share_of_tokens", pa.float64(), "share of the tokens, most uncertain first"),
        *with_interval("share_of_mismatches", "share of all mismatches among them"),
    ]
)

POSITIONS = parquet.schema(
    [
        *SERIES,
        ("scale", pa.string(), "absolute (tokens from the start) or relative (share of the answer)"),
        ("bin", pa.int64(), "bin of positions, from 0"),
        ("bin_low", pa.float64(), "first position of the bin"),
        ("bin_high", pa.float64(), "first position after it"),
        *COUNTS,
        *with_interval("rate", "share of mismatches"),
        ("mean_entropy", pa.float64(), "mean entropy of the default model, nats"),
        *with_interval("auroc", "AUROC of entropy for mismatches within the bin"),
    ]
)

BOUNDARIES = parquet.schema(
    [
        *SERIES,
        ("boundary", pa.string(), "first token of a turn, sentence start, or elsewhere"),
        *COUNTS,
        *with_interval("rate", "share of mismatches"),
        ("mean_entropy", pa.float64(), "mean entropy of the default model, nats"),
    ]
)

ODDS_RATIOS = parquet.schema(
    [
        *SERIES,
        ("regressors", pa.string(), "position alone, or position with entropy and its square"),
        ("term", pa.string(), "the regressor that changes; all others are held fixed"),
        ("coefficient", pa.float64(), "of a logistic regression of mismatch, log odds"),
        ("odds_ratio", pa.float64(), "its exponential"),
        ("odds_ratio_low", pa.float64(), "lower end of its 95 % interval, clustered by prompt"),
        ("odds_ratio_high", pa.float64(), "upper end"),
        ("tokens", pa.int64(), "answer tokens of test prompts"),
        ("prompts", pa.int64(), "test prompts"),
    ]
)

PROJECTIONS = parquet.schema(
    [
        *SERIES,
        ("projection", pa.string(), "pca or tsne of the default model's top probabilities"),
        ("prompt_id", pa.string(), "test prompt"),
        ("turn", pa.int32(), "turn of the conversation, from 1"),
        ("pos", pa.int32(), "place of the token in the text, from 0"),
        ("x", pa.float64(), "first coordinate, without a unit"),
        ("y", pa.float64(), "second coordinate"),
        ("mismatch", pa.bool_(), "whether the token is a mismatch"),
    ]
)

TABLES = {
    "score_discrimination": DISCRIMINATION,
    "score_calibration": CALIBRATION,
    "score_lorenz": LORENZ,
    "mismatch_by_position": POSITIONS,
    "mismatch_by_boundary": BOUNDARIES,
    "mismatch_odds_ratios": ODDS_RATIOS,
    "projections": PROJECTIONS,
}
