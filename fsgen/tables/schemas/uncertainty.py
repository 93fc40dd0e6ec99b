"""Tables of the `uncertainty` stage: scores against mismatches, positions, projections."""

import pyarrow as pa

from fsgen.tables import parquet
from fsgen.tables.columns import CI_COLUMNS

SERIES = [
    ("pair", pa.string(), "pair, a key of params.yaml"),
    ("method", pa.string(), "method whose mismatches these are"),
    ("writer", pa.string(), "whose text: large, or the default speaker (small or tuned)"),
]

SCORE = ("score", pa.string(), "entropy, max_probability, margin, logistic or svm, turned to rise with doubt")

COUNTS = [
    ("tokens", pa.int64(), "answer tokens of test prompts"),
    ("mismatches", pa.int64(), "of them mismatches"),
]

DISCRIMINATION = parquet.schema(
    [
        *SERIES,
        SCORE,
        ("quantity", pa.string(), "auroc, average_precision, or brier of a score that is a chance"),
        ("value", pa.float64(), "null where all tokens are matches, or all mismatches"),
        *CI_COLUMNS,
        *COUNTS,
        ("prompts", pa.int64(), "test prompts"),
    ]
)

RELIABILITY = parquet.schema(
    [
        *SERIES,
        SCORE,
        ("bin", pa.int64(), "tenth of the tokens by doubt, most doubtful last, from 0"),
        ("mean_score", pa.float64(), "mean doubt in it"),
        ("is_probability", pa.bool_(), "whether that doubt claims to be the chance of a mismatch"),
        ("claimed", pa.float64(), "that chance; null of other scores"),
        ("tokens", pa.int64(), "tokens in it"),
        ("rate", pa.float64(), "share of mismatches in it"),
        *CI_COLUMNS,
    ]
)

LORENZ = parquet.schema(
    [
        *SERIES,
        SCORE,
        ("share_of_tokens", pa.float64(), "share of the tokens, most doubtful first"),
        ("share_of_mismatches", pa.float64(), "share of all mismatches that lies in them"),
        *CI_COLUMNS,
    ]
)

POSITIONS = parquet.schema(
    [
        *SERIES,
        ("scale", pa.string(), "absolute (tokens from the start) or relative (share of the answer)"),
        ("bin", pa.int64(), "number of the stretch, from 0"),
        ("bin_low", pa.float64(), "first position in it"),
        ("bin_high", pa.float64(), "first position beyond it"),
        *COUNTS,
        ("rate", pa.float64(), "share of mismatches"),
        *CI_COLUMNS,
        ("mean_entropy", pa.float64(), "mean entropy of the default speaker, nats"),
        ("auroc", pa.float64(), "how well entropy tells mismatches from matches within it"),
        ("auroc_low", pa.float64(), "lower end"),
        ("auroc_high", pa.float64(), "upper end"),
    ]
)

PLACES = parquet.schema(
    [
        *SERIES,
        ("place", pa.string(), "first token of a turn, sentence start, or elsewhere"),
        *COUNTS,
        ("rate", pa.float64(), "share of mismatches"),
        *CI_COLUMNS,
        ("mean_entropy", pa.float64(), "mean entropy of the default speaker, nats"),
    ]
)

EFFECTS = parquet.schema(
    [
        *SERIES,
        ("model", pa.string(), "position alone, or with entropy (and its square)"),
        ("term", pa.string(), "what changes, all other terms of the model equal"),
        ("coefficient", pa.float64(), "of a logistic regression of mismatch, log odds"),
        ("odds_ratio", pa.float64(), "its exponential"),
        ("low", pa.float64(), "lower end of its 95 % interval, clustered by prompt"),
        ("high", pa.float64(), "upper end"),
        ("tokens", pa.int64(), "answer tokens of test prompts"),
        ("prompts", pa.int64(), "test prompts"),
    ]
)

EMBEDDING = parquet.schema(
    [
        *SERIES,
        ("view", pa.string(), "pca or tsne of the default speaker's top probabilities"),
        ("prompt_id", pa.string(), "test prompt"),
        ("turn", pa.int32(), "turn of the conversation, from 1"),
        ("pos", pa.int32(), "place of the token in the text, from 0"),
        ("x", pa.float64(), "first coordinate, without a unit"),
        ("y", pa.float64(), "second coordinate"),
        ("mismatch", pa.bool_(), "whether the token is a mismatch"),
    ]
)

TABLES = {
    "discrimination": DISCRIMINATION,
    "reliability": RELIABILITY,
    "lorenz": LORENZ,
    "positions": POSITIONS,
    "places": PLACES,
    "effects": EFFECTS,
    "embedding": EMBEDDING,
}
