"""Kill switches from the console: what is engaged, engaging one, and passing on what was signed elsewhere.

Rules:
- The console's key engages, and does nothing else on `control`: a release, a promotion or a gate takes an operator's
  own key, which never comes here.
- Who engages stands in the reason, since the command is the console's.
- Who is of some tenants only stops those only.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from hitl_stream.console.bodies import EngageAsk
from hitl_stream.console.office import Office, Place, Standing, Who, is_service
from hitl_stream.console.people import KILL_OPERATOR
from hitl_stream.console.problems import ProblemError
from hitl_stream.core.commands import Engage, type_of
from hitl_stream.core.events import Rejection
from hitl_stream.core.switches import KINDS, Switch, folded, parsed
from hitl_stream.wire.records import time_text
from hitl_stream.wire.signing import read_command

EVERYTHING = "global:*"
SWITCHES_MAX = 1_000
"""Listed at once, the newest; who has engaged more knows that everything stands still."""
SERVICES_PASS = ("engage",)
"""What a service may pass on: it stops, and never loosens."""


def switches(office: Office, who: Who) -> list[dict[str, Any]]:
    """Return what is engaged and concerns tenants of theirs, oldest first."""
    engaged = [one for one in office.watched.control.switches.engaged.values() if _concerns(one, who)]
    return [_row(one, office.watched.effective) for one in engaged[-SWITCHES_MAX:]]


def _row(switch: Switch, effective: int) -> dict[str, Any]:
    return {
        "epoch": switch.epoch,
        "scope": switch.scope,
        "mode": switch.mode.value,
        "by": switch.by,
        "at": time_text(switch.at_ms),
        "reason": switch.reason,
        "source": switch.source,
        "effective": switch.epoch <= effective,
    }


def _concerns(switch: Switch, who: Who) -> bool:
    named = parsed(switch.scope).get("tenant")
    return (
        who.account.tenants is None
        or named is None
        or any(f"tenant:{folded(one)}" in named for one in who.account.tenants)
    )


async def engage(office: Office, who: Who, ask: EngageAsk) -> Standing:
    """Engage a switch, signed by the console's key."""
    who.needs(KILL_OPERATOR)
    for selector in ask.scope:
        kind, _, value = selector.partition(":")
        if not (folded(value) if kind in KINDS else selector == EVERYTHING):
            raise ProblemError(
                "invalid",
                f"{selector[:100]!r} is no selector",
                where="scope",
                todo=f"Write kind:value, with one of {', '.join(KINDS)}; or {EVERYTHING}.",
            )
    _within_tenants(who, ask.scope)
    said = f"{who.account.name} at the console" + (f": {ask.reason}" if ask.reason else "")
    return await office.engage(partial(Engage, scope=ask.scope, mode=ask.mode, reason=said))


def _within_tenants(who: Who, scope: tuple[str, ...]) -> None:
    tenants = who.account.tenants
    if tenants is None:
        return
    named = parsed(scope).get("tenant", frozenset()) - {"tenant:"}
    if not named or not named <= {f"tenant:{folded(one)}" for one in tenants}:
        raise ProblemError(
            "tenant",
            "the scope reaches beyond your tenants",
            where="scope",
            todo=f"Add tenant:NAME, of {', '.join(tenants) or 'none'}.",
        )


async def pass_on(office: Office, who: Who, jws: str) -> Place:
    """Append a command that somebody has signed with a key of their own, as it is."""
    office.ready()
    watched = office.watched
    found = read_command(jws.encode(), watched.now_ms(), watched.control.keys, watched.audience)
    if isinstance(found, Rejection):
        raise ProblemError(
            "invalid",
            f"control would not take this command: {found.value}",
            where="jws",
            todo="Sign it anew, for this cluster, with a key that control lists.",
        )
    if is_service(who) and type_of(found) not in SERVICES_PASS:
        raise ProblemError(
            "service",
            f"{who.account.name} is a service, and a service never decides, releases or promotes",
            todo=f"A person passes on a {type_of(found)}.",
        )
    return await office.writer.append("control", 0, jws.encode(), key=found.jti.encode())
