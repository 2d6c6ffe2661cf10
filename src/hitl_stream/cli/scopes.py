"""Scopes as a person types them: checked strictly, since a reader takes what it does not understand for everything."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from cyclopts import Parameter

from hitl_stream.core.commands import SELECTORS_MAX
from hitl_stream.core.errors import UsageError
from hitl_stream.core.switches import GLOBAL, KINDS, folded

SELECTOR_LENGTH_MAX = 500
EVERYTHING = f"--scope {GLOBAL}"
ScopeFlag = Annotated[tuple[str, ...], Parameter(name="--scope")]
"""`kind:value`, once for each; the same kind twice means either, different kinds mean both."""


def checked(scope: Sequence[str]) -> tuple[str, ...]:
    """Return the scope; refuse what would be taken for everything, unless everything is what it says."""
    if not scope:
        raise UsageError(f"no scope is given; write --scope kind:value ({_kinds()}), or {EVERYTHING} for everything")
    if len(scope) > SELECTORS_MAX:
        raise UsageError(f"{len(scope)} selectors, at most {SELECTORS_MAX} fit one command; say it in several")
    for selector in scope:
        _check(selector)
    if GLOBAL in scope and len(set(scope)) > 1:
        others = ", ".join(selector for selector in scope if selector != GLOBAL)
        raise UsageError(f"{GLOBAL} covers everything, and {others} would narrow nothing; leave one or the other out")
    return tuple(dict.fromkeys(scope))


def _check(selector: str) -> None:
    kind, _, value = selector.partition(":")
    if kind == "global" and value == "*":
        return
    if folded(kind) not in KINDS:
        raise UsageError(f"{selector!r}: {kind!r} is no kind of scope; the kinds are {_kinds()}; {_everything()}")
    if not folded(value):
        raise UsageError(f"{selector!r}: no value; write {kind}:ID; {_everything()}")
    if len(selector) > SELECTOR_LENGTH_MAX:
        raise UsageError(f"{selector[:60]!r}…: {len(selector)} characters, at most {SELECTOR_LENGTH_MAX}")


def _kinds() -> str:
    return ", ".join(sorted(KINDS))


def _everything() -> str:
    return f"for everything write {EVERYTHING}"


def notes(scope: Sequence[str]) -> tuple[str, ...]:
    """Return what a person may not expect of a scope."""
    kinds = {folded(selector.partition(":")[0]) for selector in scope}
    if "tenant" in kinds:
        return ()
    return tuple(
        f"{kind} without a tenant covers every tenant's {kind} of that name"
        for kind in ("campaign", "account")
        if kind in kinds
    )
