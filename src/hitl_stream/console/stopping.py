"""Kill switches from the console: what is engaged, engaging one, and passing on what was signed elsewhere.

Rules:
- The console's key engages, and does nothing else on `control`: a release, a promotion or a gate takes an operator's
  own key, which never comes here.
- Who engages stands in the reason, since the command is the console's.
- Who is of some tenants only stops those only.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any

from hitl_stream.console.bodies import EngageAsk
from hitl_stream.console.live import KEPT_S, STEP_S
from hitl_stream.console.office import Office, Place, Standing, Who, is_service
from hitl_stream.console.people import KILL_OPERATOR
from hitl_stream.console.problems import ProblemError
from hitl_stream.console.seen import TOLD_MAX
from hitl_stream.core.commands import Engage, ReleaseRequest, type_of
from hitl_stream.core.control import CONFIRM_MS_MAX, RELEASE_MS_MIN
from hitl_stream.core.events import Rejection
from hitl_stream.core.switches import KINDS, Switch, folded, parsed
from hitl_stream.lane.picture import Picture, asked_for, control_data, instance_data, standing_data, state_of
from hitl_stream.wire.records import time_text
from hitl_stream.wire.signing import read_command

EVERYTHING = "global:*"
SWITCHES_MAX = 1_000
"""Listed at once, the newest; who has engaged more knows that everything stands still."""
SPANS_MAX = 200
"""Switches on the timeline of the live page, the newest."""
SERVICES_PASS = ("engage",)
"""What a service may pass on: it stops, and never loosens."""


# --- how it stands ----------------------------------------------------------------------------------------------------


def switches(office: Office, who: Who) -> list[dict[str, Any]]:
    """Return what is engaged and concerns tenants of theirs, oldest first."""
    picture = office.watched.picture()
    return [_row(one, office, picture) for one in _engaged(office, who)]


def standing(office: Office, who: Who) -> dict[str, Any]:
    """Return what is engaged, what was asked to be released, and who is waited for."""
    watched, picture = office.watched, office.watched.picture()
    engaged = _engaged(office, who)
    named = {} if _is_outsider(office, who) else standing_data(picture)
    return {
        "epoch": watched.control.epoch,
        "effective": watched.effective,
        "missing": watched.missing(),
        "heard": picture.heard,
        "switches": [_row(one, office, picture) for one in engaged],
        "requests": _requests(office, engaged),
        "waiting": named.get("waiting", []),
        "contained": named.get("contained", []),
    }


def instances(office: Office, who: Who) -> dict[str, Any]:
    """Return which control roles speak, and who acknowledges."""
    _insiders_only(office, who)
    picture = office.watched.picture()
    return {
        "heard": picture.heard,
        "silent_s": round(picture.silent_ms / 1000, 1),
        "epoch": office.watched.control.epoch,
        "control": control_data(picture),
        "instances": [_instance(name, picture) for name in sorted(picture.instances.latest)],
        "held": office.live.grown("routes", "HOLD"),
    }


def live(office: Office, who: Who, after_ms: int) -> dict[str, Any]:
    """Return the charts of the live page, and the switches of the same time."""
    _insiders_only(office, who)
    now_ms = office.clock_ms()
    return {
        "now": now_ms,
        "step_s": STEP_S,
        "kept_s": KEPT_S,
        "targets": [{"target": one.name, "trouble": one.trouble} for one in office.live.targets],
        **office.live.told(after_ms),
        "switches": _spans(office.watched.control.switches.all.values(), who, now_ms - int(KEPT_S * 1000)),
    }


def scopes(office: Office, who: Who, like: str) -> dict[str, list[str]]:
    """Return what a scope could name, by kind: what records were lately about, of tenants of theirs."""
    who.needs(KILL_OPERATOR)
    tenants = who.account.tenants
    found = office.seen.told(tenants, like)
    wanted = folded(like)
    known = {"type": office.policy().policy.classes, "tenant": tenants or ()}
    for kind, values in known.items():
        found[kind] += [one for one in values if wanted in folded(one) and one not in found[kind]]
        del found[kind][TOLD_MAX:]
    return found


def _engaged(office: Office, who: Who) -> list[Switch]:
    engaged = [one for one in office.watched.control.switches.engaged.values() if _concerns(one, who)]
    return engaged[-SWITCHES_MAX:]


def _requests(office: Office, engaged: Sequence[Switch]) -> list[dict[str, Any]]:
    """Return the requests that wait and would release any of these switches, oldest first."""
    control = office.watched.control
    asked = {one.epoch: one for switch in engaged for one in asked_for(switch.epoch, control)}
    shown = {switch.epoch for switch in engaged}
    return [
        {
            "epoch": one.epoch,
            "by": one.holder,
            "at": time_text(one.at_ms),
            "epochs": [epoch for epoch in one.command.epochs if epoch in shown],
            "reason": one.command.reason,
            "not_before": time_text(one.at_ms + RELEASE_MS_MIN),
            "not_after": time_text(one.at_ms + CONFIRM_MS_MAX),
        }
        for _, one in sorted(asked.items())
        if isinstance(one.command, ReleaseRequest)
    ]


def _instance(name: str, picture: Picture) -> dict[str, Any]:
    seen = picture.instances.latest[name]
    row = instance_data(name, seen, picture)
    left_ms = row["lease_left_ms"]
    return {**row, "at": time_text(seen.at_ms), "holds": picture.heard and left_ms is not None and left_ms > 0}


def _spans(found: Iterable[Switch], who: Who, since_ms: int) -> list[dict[str, Any]]:
    """Return from when until when switches held, of those that did so since a time."""
    held = [one for one in found if _concerns(one, who) and (one.released_ms is None or one.released_ms >= since_ms)]
    return [
        {
            "epoch": one.epoch,
            "scope": one.scope,
            "mode": one.mode.value,
            "from": one.at_ms,
            "until": one.released_ms,
        }
        for one in held[-SPANS_MAX:]
    ]


def _is_outsider(office: Office, who: Who) -> bool:
    """Say whether somebody is of an external client only, and so is shown nothing of how it all runs."""
    return office.viewer(who).confined


def _insiders_only(office: Office, who: Who) -> None:
    if _is_outsider(office, who):
        raise ProblemError(
            "role",
            f"{who.account.name} decides for a client only, and is not shown how everything runs",
            todo="Ask an administrator for the role viewer: hitl user role.",
        )


def _row(switch: Switch, office: Office, picture: Picture) -> dict[str, Any]:
    return {
        "epoch": switch.epoch,
        "scope": switch.scope,
        "mode": switch.mode.value,
        "by": switch.by,
        "at": time_text(switch.at_ms),
        "reason": switch.reason,
        "source": switch.source,
        "effective": switch.epoch <= office.watched.effective,
        "state": state_of(switch, picture),
        "took_ms": office.watched.took_ms(switch.epoch),
    }


def _concerns(switch: Switch, who: Who) -> bool:
    named = parsed(switch.scope).get("tenant")
    return (
        who.account.tenants is None
        or named is None
        or any(f"tenant:{folded(one)}" in named for one in who.account.tenants)
    )


# --- stopping ---------------------------------------------------------------------------------------------------------


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
