"""One prompt down to the token, for a terminal: what was asked, what everyone wrote, where they part."""

import polars as pl
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from fsgen.errors import UserError
from fsgen.tables import lake

STYLES = {"changed": "bold red", "agreed": "underline", "missed": "yellow", "small": ""}
BRACKETS = {"changed": "[]", "agreed": "{}", "missed": "<>", "small": ("", "")}
LEGEND = (
    "[ ]: the large model changed it; { }: it was asked, and agreed; < >: it would have, and was not asked"
)


def show_prompt(pair: str, prompt_id: str) -> Group:
    """The prompt, its gold answer, both models' own texts, and what every policy made of it.

    Raises Complaint where the pair has nothing on such a prompt.
    """
    chosen = {"pair": pair, "prompt_id": prompt_id}
    asked = lake.query(
        "select dataset, split, plain, gold from prompts where prompt_id = getvariable('prompt_id')",
        values=chosen,
    )
    if not len(asked):
        raise UserError(
            f"There is no prompt '{prompt_id}'; see 'fsgen sql \"select prompt_id from prompts\"'."
        )
    row = asked.row(0, named=True)
    head = [
        Text(f"{prompt_id} ({row['dataset']}, {row['split']})", style="bold"),
        Text(row["plain"]),
        Text(f"gold: {row['gold']}\n", style="dim"),
    ]
    return Group(*head, *_alone(chosen), *_made_of_it(chosen))


def _alone(chosen: dict[str, str]) -> list[RenderableType]:
    """What each model of the pair wrote by itself, with the verdict."""
    alone = lake.query(
        """select p.role, p.model, t.turn, t.text, g.verdict, g.extracted
        from solo_texts t join pairs p using (model, dataset)
        left join graded_solo g using (model, dataset, prompt_id, turn)
        where p.pair = getvariable('pair') and prompt_id = getvariable('prompt_id')
        order by p.role desc, t.turn""",
        values=chosen,
    )
    if not len(alone):
        pair, prompt_id = chosen["pair"], chosen["prompt_id"]
        raise UserError(f"The pair '{pair}' has no text on '{prompt_id}'; see 'fsgen sql \"from pairs\"'.")
    parts = []
    for told in alone.iter_rows(named=True):
        title = f"{told['role']} ({told['model']}) alone: {told['verdict']}, {told['extracted']}"
        parts += [Text(title, "bold"), Text(told["text"] + "\n")]
    return parts


def _made_of_it(chosen: dict[str, str]) -> list[RenderableType]:
    """What every policy made of a test prompt; nothing of one for calibration."""
    policies = lake.query(
        """select policy, calls, interventions, tokens, verdict from tallies
        where pair = getvariable('pair') and prompt_id = getvariable('prompt_id') order by policy""",
        values=chosen,
    )
    return [_table(policies, f"policies of {chosen['pair']}")] if len(policies) else []


def show_policy(pair: str, prompt_id: str, policy: str) -> Group:
    """A policy's text with its tokens marked, and every position at which the two models part or met.

    Raises Complaint where that policy wrote nothing on that prompt.
    """
    chosen = {"pair": pair, "prompt_id": prompt_id, "policy": policy}
    rows = lake.query(
        """select pos, piece, default_piece, fused_piece, called, mismatch, entropy,
        score, verdict from spelt
        where pair = getvariable('pair') and prompt_id = getvariable('prompt_id')
        and policy = getvariable('policy') order by pos""",
        values=chosen,
    )
    if not len(rows):
        raise UserError(
            f"'{policy}' wrote nothing on '{prompt_id}' with '{pair}'; policies write on test prompts, "
            "and speculative ones write the large model's text."
        )
    parts = rows.filter(pl.col("called").fill_null(False) | pl.col("mismatch").fill_null(False))
    # pieces of word-level tokenizers hold no blanks
    gap = "" if rows["piece"].str.contains(" ").any() else " "
    return Group(
        Text(f"{policy} on {prompt_id}: {rows['verdict'][0]}, {rows['called'].sum()} calls", style="bold"),
        mark(rows.to_dicts(), gap),
        Text(LEGEND + "\n", style="dim"),
        _table(parts.drop("verdict"), "where it called, or would have had to"),
    )


def show_token(pair: str, prompt_id: str, policy: str, pos: int) -> Group:
    """Every model's ten likeliest tokens at a position of a policy's text, and what was decided there.

    Raises Complaint where the position is beyond the text, and where no model looked that closely:
    `report.prompts` says on how many prompts they do.
    """
    chosen = {"pair": pair, "prompt_id": prompt_id, "policy": policy, "pos": str(pos)}
    decided = lake.query(
        """select piece as written, default_piece as without_large, fused_piece as fused, called, mismatch,
        entropy, score from spelt where pair = getvariable('pair') and prompt_id = getvariable('prompt_id')
        and policy = getvariable('policy') and pos = getvariable('pos')::int""",
        values=chosen,
    )
    if not len(decided):
        raise UserError(
            f"'{policy}' wrote no token {pos} on '{prompt_id}' with '{pair}'; choose a smaller one."
        )
    lists = lake.query(
        """with seen as (
            select reader, entropy, logsumexp, unnest(top_ids) as token_id, unnest(top_logits) as logit,
                   unnest(range(1, len(top_ids) + 1)) as place
            from closeups where pair = getvariable('pair') and prompt_id = getvariable('prompt_id')
            and pos = getvariable('pos')::int and list_contains(policies, getvariable('policy'))
        )
        select reader, entropy, place, piece, exp(logit - logsumexp) as probability from seen
        join vocabulary v using (token_id) join pairs p on p.model = v.model
        where p.pair = getvariable('pair') and p.role = 'large' order by reader desc, place""",
        values=chosen,
    )
    if not len(lists):
        raise UserError(
            f"No model looked closely at '{prompt_id}'; raise report.prompts and run 'dvc repro' to see it."
        )
    tables = Table.grid(padding=(0, 3))
    readers = [role for role in ("small", "tuned", "large") if role in lists["reader"]]
    tables.add_row(*(_top_ten(lists.filter(reader=reader), reader) for reader in readers))
    return Group(_table(decided, f"token {pos} of {policy} on {prompt_id}"), tables)


def mark(rows: list[dict], gap: str) -> Text:
    """Tokens as one text with `gap` between them, each marked by who chose it, in colour and in brackets.

    A row holds piece, called and mismatch.
    """
    text = Text()
    for row in rows:
        called, differs = bool(row["called"]), bool(row["mismatch"])
        kind = ("changed" if differs else "agreed") if called else "missed" if differs else "small"
        left, right = BRACKETS[kind]
        text.append(f"{left}{row['piece'] or ''}{right}", STYLES[kind])
        text.append(gap)
    return text


def _top_ten(rows: pl.DataFrame, reader: str) -> Table:
    table = Table(title=f"{reader}, {rows['entropy'][0]:.3f} nats", box=None, show_header=False)
    for row in rows.iter_rows(named=True):
        table.add_row(repr(row["piece"]), f"{row['probability']:.2%}")
    return table


def _table(frame: pl.DataFrame, title: str) -> Table:
    table = Table(*frame.columns, title=title, title_justify="left")
    for row in frame.iter_rows():
        table.add_row(*map(_cell, row))
    return table


def _cell(value: object) -> str:
    if value is None:
        return ""
    return f"{value:.4g}" if isinstance(value, float) else str(value)
