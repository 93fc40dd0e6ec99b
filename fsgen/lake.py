"""SQL over everything under data/: one DuckDB view a table, named and described here alone."""

from pathlib import Path
from typing import NamedTuple

import duckdb
import pyarrow.parquet as pq

from fsgen.typed import Complaint, look_up


class View(NamedTuple):
    """A view over the files that match `pattern`, with columns read from their paths."""

    about: str
    pattern: str
    path_columns: dict[str, int]
    """Column name to the place of its folder, counted from the end of the path (-1 is the file)."""


_MODEL, _PAIR = {"model": -3, "dataset": -2}, {"pair": -3, "dataset": -2}
_LAWS = {
    "points": "CoF of every pair with both sizes",
    "fits": "how well each law describes and predicts a series of points",
    "parameters": "the laws' parameters with their intervals",
    "errors": "what each law predicted for points that it was not fitted to",
    "curves": "the fitted laws on a grid of sizes",
    "covariates": "whether the small model's entropy predicts CoF better than sizes",
    "claims": "how many points lie above 20 %",
}
_UNCERTAINTY = {
    "discrimination": "how well scores tell mismatches from matches",
    "reliability": "mismatch rates by tenth of a score",
    "lorenz": "share of all mismatches in the most doubtful tokens",
    "positions": "mismatch rates by position",
    "places": "mismatch rates at first tokens and sentence starts",
    "effects": "odds ratios of position without and with entropy",
    "embedding": "tokens in the plane by their top probabilities",
}
_COMPARED = {
    "frontier": "what policies call and cost, and what they get right for it",
    "duels": "two routers at equal budget on the same prompts",
    "estimates": "off-policy estimates beside what rollouts counted",
    "survival": "share of texts that a policy still writes, by position",
    "forks": "a text's first unrouted mismatch, and what became of it",
    "reconvergence": "how often texts come together again after one",
    "acceptance": "acceptance rates of drafting, greedy and sampled",
    "drafts": "accepted lengths of drafting K tokens a round",
    "speedups": "expected speed-up of drafting by the cost of a draft",
}
VIEWS = {
    "prompts": View("every prompt with its gold answer", "prompts/*.parquet", {"dataset": -1}),
    "solo": View("tokens of a model writing alone", "dumps/*/*/tokens-*.parquet", _MODEL),
    "solo_texts": View("texts of a model writing alone", "dumps/*/*/texts-*.parquet", _MODEL),
    "large_reads": View("the large model on the speakers' texts", "large/*/*/reads-*.parquet", _PAIR),
    "small_reads": View("small and tuned on all texts of a pair", "small/*/*/reads-*.parquet", _PAIR),
    "fused": View("every method at every dumped position", "fused/*/*.parquet", {"pair": -2, "dataset": -1}),
    "routed": View("simulated policies (estimates)", "routes/*/*.parquet", {"pair": -2, "dataset": -1}),
    "rolled": View("tokens that policies wrote themselves", "rollouts/*/*/tokens-*.parquet", _PAIR),
    "rolled_texts": View("texts that policies wrote themselves", "rollouts/*/*/texts-*.parquet", _PAIR),
    "steps": View("model steps that a shard's tree took", "rollouts/*/*/steps-*.parquet", _PAIR),
    "graded_solo": View(
        "verdicts on models alone", "graded/models/*/*.parquet", {"model": -2, "dataset": -1}
    ),
    "graded": View("verdicts on policies", "graded/pairs/*/*.parquet", {"pair": -2, "dataset": -1}),
    "tallies": View(
        "a policy on a prompt: counts, costs, verdict", "evaluated/*/policies.parquet", {"dataset": -2}
    ),
    "scores": View(
        "every router's score at every test position",
        "routes/*/scores/*.parquet",
        {"pair": -3, "dataset": -1},
    ),
    "vocabulary": View("what a model's tokens spell", "vocabulary/*.parquet", {"model": -1}),
    **{name: View(about, f"laws/*/{name}.parquet", {"basis": -2}) for name, about in _LAWS.items()},
    **{n: View(about, f"uncertainty/*/{n}.parquet", {"dataset": -2}) for n, about in _UNCERTAINTY.items()},
    **{name: View(about, f"compared/*/{name}.parquet", {"dataset": -2}) for name, about in _COMPARED.items()},
}


def connect(data: Path = Path("data")) -> duckdb.DuckDBPyConnection:
    """An in-memory database with a view for every table that has files; the files are only read."""
    connection = duckdb.connect()
    connection.execute("set preserve_insertion_order = true")
    for name, view in VIEWS.items():
        if any(data.glob(view.pattern)):
            connection.execute(definition(name, data))
    return connection


def definition(name: str, data: Path = Path("data")) -> str:
    """The SQL that makes a view."""
    view = VIEWS[name]
    columns = ", ".join(
        f"replace(split_part(filename, '/', {place}), '.parquet', '') as {column}"
        for column, place in view.path_columns.items()
    )
    source = f"read_parquet('{data / view.pattern}', filename = true)"
    return f"create or replace view {name} as select {columns}, * exclude (filename) from {source}"


def columns(name: str, data: Path = Path("data")) -> list[tuple[str, str, str]]:
    """Name, type and meaning of a view's columns; those read from the path first."""
    view = look_up(VIEWS, name, "the views")
    path = next(data.glob(view.pattern), None)
    if path is None:
        raise Complaint(f"The view '{name}' has no table under {data} yet; run 'dvc repro'.")
    told = [(column, "string", f"{column}, a key of params.yaml") for column in view.path_columns]
    return told + [(f.name, str(f.type), f.metadata[b"about"].decode()) for f in pq.read_schema(path)]


def ask(sql: str, data: Path = Path("data")):
    """Result of a query as a polars frame; Complaint with DuckDB's own first line where it fails."""
    try:
        answer = connect(data).sql(sql)
    except duckdb.Error as error:
        first = str(error).splitlines()[0]
        raise Complaint(f"The query failed: {first} (known views: {', '.join(VIEWS)}).") from error
    if answer is None:
        raise Complaint(f"{sql!r} asks for no rows; write a query such as 'select * from solo limit 3'.")
    return answer.pl()
