"""`hitl pin`: a person's strategy decision, signed; what contradicts it is escalated until it ends."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Annotated, Literal

from cyclopts import App, Parameter

from hitl_stream.cli import scopes
from hitl_stream.cli.appending import Desk, KeyFlag, Reason, checked_reason, sign_and_append, signing_key, tell
from hitl_stream.cli.live import Telling
from hitl_stream.cli.scopes import ScopeFlag
from hitl_stream.cli.settings import NO_FLAGS, Json, SettingsFlags, Toggle
from hitl_stream.cli.terminal import emit
from hitl_stream.cli.topics import reading
from hitl_stream.core.action import NUMBER
from hitl_stream.core.commands import Pin
from hitl_stream.core.errors import UsageError
from hitl_stream.core.escape import escaped
from hitl_stream.core.policy.model import duration_ms
from hitl_stream.lane.commander import Make


def register(app: App) -> None:
    """Add the verb."""
    app.command(pin)


def pin(
    *,
    scope: ScopeFlag = (),
    field: str,
    down: Toggle = False,
    up: Toggle = False,
    range_: Annotated[str | None, Parameter(name="--range")] = None,
    unit: str | None = None,
    until: str,
    reason: Reason,
    key: KeyFlag = None,
    json: Json = False,
    flags: SettingsFlags = NO_FLAGS,
) -> int:
    """Pin a strategy decision: what contradicts it until then is escalated. It holds at once.

    `hitl pin --scope campaign:cmp-204 --field daily_budget --down --until 7d --reason "clearance until Friday"`

    Parameters
    ----------
    scope
        kind:value, once for each, as for `hitl kill`.
    field
        The field of a change, such as daily_budget.
    down
        It may only go down.
    up
        It may only go up.
    range_
        LOW..HIGH: it may only be set to that; either may be left out.
    unit
        The unit that a change must be in.
    until
        A date (its beginning, UTC), a time with an offset, or how long from now, such as 7d.
    json
        One object on stdout: {state, epoch, at, confirm, scope, field, direction, range, unit, until, notes}.
    """
    selectors = scopes.checked(scope)
    checked_reason(reason)
    direction, bounds = _demand(down, up, range_)
    moment = _moment(until)
    settings = flags.load()
    signer = signing_key(settings, key)
    telling = Telling(json)
    ends: list[datetime] = []

    def prepare(desk: Desk) -> Make:
        now = datetime.fromtimestamp(desk.commander.now_ms() // 1000, UTC)
        ends.append(moment(now))
        if ends[0] <= now:
            raise UsageError(f"--until {until}: it is over already; it is {now:%Y-%m-%dT%H:%M:%SZ} now")
        return partial(
            Pin,
            scope=selectors,
            field=field,
            direction=direction,
            range=bounds,
            unit=unit,
            until=ends[0],
            reason=reason,
        )

    signed = reading(sign_and_append(settings, signer, "pin", prepare))
    notes = scopes.notes(selectors)
    for note in notes:
        telling.line(f"Note: {note}.", "yellow")
    demands = [f"only {direction}"] if direction else []
    demands += [f"from {bounds[0] or '−∞'} to {bounds[1] or '∞'}"] if bounds else []
    demands += [f"in {escaped(unit)}"] if unit else []
    end = f"{ends[0]:%Y-%m-%dT%H:%M:%SZ}"
    whose = f"{escaped(field)} of {escaped(' '.join(selectors))}"
    what = f"{whose} goes {', '.join(demands)} until {end}; what does not is escalated"
    tell(signed, telling, what, what)
    if json:
        emit({
            **signed.row, "scope": selectors, "field": field, "direction": direction, "range": bounds, "unit": unit,
            "until": end, "notes": notes,
        })  # fmt: skip
    return 0


Bounds = tuple[str | None, str | None]


def _demand(down: bool, up: bool, range_: str | None) -> tuple[Literal["up", "down"] | None, Bounds | None]:
    if down and up:
        raise UsageError("--down and --up contradict each other; a field that must stay as it is: --range VALUE..VALUE")
    if not (down or up) and range_ is None:
        raise UsageError("say what is pinned: --down, --up, or --range LOW..HIGH")
    direction: Literal["up", "down"] | None = "down" if down else "up" if up else None
    return direction, None if range_ is None else _bounds(range_)


def _bounds(text: str) -> Bounds:
    low, dots, high = text.partition("..")
    numbers = [one for one in (low, high) if one]
    if not dots or not numbers or not all(NUMBER.match(one) for one in numbers):
        raise UsageError(f"--range {text}: no range; write LOW..HIGH in numbers, such as 1.00..2.50, or ..2.50")
    if low and high and float(low) > float(high):
        raise UsageError(f"--range {text}: {low} is more than {high}; write the lower one first")
    return low or None, high or None


def _moment(text: str) -> Callable[[datetime], datetime]:
    """Read when a pin ends; return a function from the present to it."""
    try:
        ms = duration_ms(text)
    except ValueError:
        pass
    else:
        return lambda now: now + timedelta(milliseconds=ms)
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        raise UsageError(
            f"--until {text}: no time; write a date such as 2026-12-01, a time such as 2026-12-01T18:00:00+01:00, or "
            "how long, such as 7d"
        ) from None
    if found.tzinfo is None and len(text) > len("2026-12-01"):
        raise UsageError(f"--until {text}: no offset; write one, such as {text}Z or {text}+01:00")
    end = found.astimezone(UTC) if found.tzinfo is not None else found.replace(tzinfo=UTC)
    return lambda now: end
