"""One prompt down to the token, for a terminal: the prompt, all texts on it, and where models differ."""

import polars as pl
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from fsgen.errors import UserError
from fsgen.tables import lake

STYLES = {"changed": "bold red", "agreed": "underline", "missed": "yellow", "small": ""}
BRACKETS = {"changed": "[]", "agreed": "{}", "missed": "<>", "small": ("", "")}
LEGEND = "[ ]: changed by the large model; { }: called, it agreed; < >: not called, it would have changed it"


def show_prompt(pair: str, prompt_id: str) -> Group:
    """The prompt, its gold answer, both models' own texts, and the results of every policy on it.

    Raises UserError where there is no such prompt, and where the pair has no text on it.
    """
    chosen = {"pair": pair, "prompt_id": prompt_id}
    return Group(*_prompt(chosen), *_model_texts(chosen), *_policy_results(chosen))


def _prompt(chosen: dict[str, str]) -> list[RenderableType]:
    """The prompt with its gold answer."""
    prompts = lake.query(
        "select dataset, split, plain, gold from prompts where prompt_id = getvariable('prompt_id')",
        values=chosen,
    )
    if not len(prompts):
        raise UserError(
            f"There is no prompt '{chosen['prompt_id']}'; see 'fsgen sql \"select prompt_id from prompts\"'."
        )
    row = prompts.row(0, named=True)
    return [
        Text(f"{chosen['prompt_id']} ({row['dataset']}, {row['split']})", style="bold"),
        Text(row["plain"]),
        Text(f"gold: {row['gold']}\n", style="dim"),
    ]


def _model_texts(chosen: dict[str, str]) -> list[RenderableType]:
    """What each model of the pair wrote alone, with the verdict."""
    texts = lake.query(
        """select p.role, p.model, t.turn, t.text, g.verdict, g.extracted
        from generated_texts t join pairs p using (model, dataset)
        left join model_grades g using (model, dataset, prompt_id, turn)
        where p.pair = getvariable('pair') and prompt_id = getvariable('prompt_id')
        order by p.role desc, t.turn""",
        values=chosen,
    )
    if not len(texts):
        pair, prompt_id = chosen["pair"], chosen["prompt_id"]
        raise UserError(f"The pair '{pair}' has no text on '{prompt_id}'; see 'fsgen sql \"from pairs\"'.")
    parts = []
    for row in texts.iter_rows(named=True):
        title = f"{row['role']} ({row['model']}) alone: {row['verdict']}, {row['extracted']}"
        parts += [Text(title, "bold"), Text(row["text"] + "\n")]
    return parts


def _policy_results(chosen: dict[str, str]) -> list[RenderableType]:
    """Counts and verdict of every policy on a test prompt; nothing for a calibration prompt."""
    policies = lake.query(
        """select policy, calls, interventions, tokens, verdict from policy_results
        where pair = getvariable('pair') and prompt_id = getvariable('prompt_id') order by policy""",
        values=chosen,
    )
    return [_table(policies, f"policies of {chosen['pair']}")] if len(policies) else []


def show_policy(pair: str, prompt_id: str, policy: str) -> Group:
    """A policy's text with its tokens marked, and every position with a call or a mismatch.

    Raises UserError where that policy wrote nothing on that prompt.
    """
    chosen = {"pair": pair, "prompt_id": prompt_id, "policy": policy}
    rows = lake.query(
        """select pos, piece, default_piece, fused_piece, called, mismatch, entropy,
        score, verdict from rollout_pieces
        where pair = getvariable('pair') and prompt_id = getvariable('prompt_id')
        and policy = getvariable('policy') order by pos""",
        values=chosen,
    )
    if not len(rows):
        raise UserError(
            f"'{policy}' wrote nothing on '{prompt_id}' with '{pair}'; policies write on test prompts, "
            "and speculative ones write the large model's text."
        )
    is_notable = pl.col("called").fill_null(False) | pl.col("mismatch").fill_null(False)
    # pieces of word-level tokenizers hold no spaces
    separator = "" if rows["piece"].str.contains(" ").any() else " "
    return Group(
        Text(f"{policy} on {prompt_id}: {rows['verdict'][0]}, {rows['called'].sum()} calls", style="bold"),
        mark(rows.to_dicts(), separator),
        Text(LEGEND + "\n", style="dim"),
        _table(rows.filter(is_notable).drop("verdict"), "where it called, or would have had to"),
    )


def show_token(pair: str, prompt_id: str, policy: str, pos: int) -> Group:
    """Every model's ten most likely tokens at a position of a policy's text, and what was decided there.

    Raises UserError where the position is beyond the text, and where no records of the models are stored:
    `report.explorer_prompts` says on how many prompts they are.
    """
    chosen = {"pair": pair, "prompt_id": prompt_id, "policy": policy, "pos": str(pos)}
    decision = _decision(chosen)
    lists = _top_lists(chosen)
    grid = Table.grid(padding=(0, 3))
    readers = [role for role in ("small", "tuned", "large") if role in lists["reader"]]
    grid.add_row(*(_top_table(lists.filter(reader=reader), reader) for reader in readers))
    return Group(_table(decision, f"token {pos} of {policy} on {prompt_id}"), grid)


def _decision(chosen: dict[str, str]) -> pl.DataFrame:
    """The row of the token that a policy wrote at a position."""
    rows = lake.query(
        """select piece as written, default_piece as without_large, fused_piece as fused, called, mismatch,
        entropy, score from rollout_pieces
        where pair = getvariable('pair') and prompt_id = getvariable('prompt_id')
        and policy = getvariable('policy') and pos = getvariable('pos')::int""",
        values=chosen,
    )
    if not len(rows):
        raise UserError(
            f"'{chosen['policy']}' wrote no token {chosen['pos']} on '{chosen['prompt_id']}' with "
            f"'{chosen['pair']}'; choose a smaller one."
        )
    return rows


def _top_lists(chosen: dict[str, str]) -> pl.DataFrame:
    """The most likely tokens of every model at a position of a policy's text, a row a token."""
    rows = lake.query(
        """with seen as (
            select dataset, reader, entropy, logsumexp, unnest(top_ids) as token_id,
                   unnest(top_logits) as logit, unnest(range(1, len(top_ids) + 1)) as rank
            from rollout_logits where pair = getvariable('pair') and prompt_id = getvariable('prompt_id')
            and pos = getvariable('pos')::int and list_contains(policies, getvariable('policy'))
        )
        select reader, entropy, rank, piece, exp(logit - logsumexp) as probability from seen
        join vocabulary v using (token_id) join pairs p using (dataset, model)
        where p.pair = getvariable('pair') and p.role = 'large' order by reader desc, rank""",
        values=chosen,
    )
    if not len(rows):
        raise UserError(
            f"There are no logits of '{chosen['prompt_id']}'; raise report.explorer_prompts and run "
            "'dvc repro' to see them."
        )
    return rows


def mark(rows: list[dict], separator: str) -> Text:
    """Tokens as one text, each followed by `separator` and marked by who chose it, in colour and brackets.

    A row holds piece, called and mismatch.
    """
    text = Text()
    for row in rows:
        called, differs = bool(row["called"]), bool(row["mismatch"])
        kind = ("changed" if differs else "agreed") if called else "missed" if differs else "small"
        left, right = BRACKETS[kind]
        text.append(f"{left}{row['piece'] or ''}{right}", STYLES[kind])
        text.append(separator)
    return text


def _top_table(rows: pl.DataFrame, reader: str) -> Table:
    """A reader's most likely tokens with their probabilities, below its entropy."""
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
