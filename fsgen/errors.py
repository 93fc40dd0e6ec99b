"""Errors a user can act on, each one sentence."""

import difflib
import errno
import typing


class UserError(Exception):
    """Something a person can mend, said in one sentence: the thing, the expected, the got, the remedy."""


def lookup_or_suggest(table: typing.Mapping, name: object, where: str) -> typing.Any:
    """What the table holds under the name, or a Complaint that offers the nearest."""
    if name in table:
        return table[name]
    near = difflib.get_close_matches(str(name), [str(key) for key in table], n=1)
    hint = f"did you mean '{near[0]}'?" if near else f"known are {', '.join(map(str, table)) or 'none'}."
    raise UserError(f"'{name}' is not among {where}; {hint}")


def refuse_full_disk(error: Exception, thing: str) -> None:
    """Complaint where the error is that of a disk without room for the thing; nothing otherwise."""
    if getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT):
        raise UserError(
            f"The disk is full: {thing} got no more room; "
            "make room and run the same command again, finished shards are kept."
        ) from error
