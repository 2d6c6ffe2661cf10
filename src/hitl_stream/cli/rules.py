"""What policy owners sign: `hitl policy promote` and `hitl level`; gates and pins have modules of their own.

Whatever tightens holds at once; whatever loosens waits until another holder's `hitl confirm`. Each verb says which.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from difflib import get_close_matches
from functools import partial
from pathlib import Path
from typing import Annotated

from cyclopts import App, Parameter

from hitl_stream.cli.appending import (
    Desk,
    KeyFlag,
    Reason,
    believed,
    checked_reason,
    sign_and_append,
    signing_key,
    tell,
    trust_of,
)
from hitl_stream.cli.control_words import WORDS
from hitl_stream.cli.live import Telling
from hitl_stream.cli.policy import read
from hitl_stream.cli.settings import NO_FLAGS, Json, SettingsFlags
from hitl_stream.cli.terminal import emit
from hitl_stream.cli.topics import reading
from hitl_stream.core.commands import LevelChange, PolicyChange
from hitl_stream.core.control import LEVEL_MAX, Control
from hitl_stream.core.errors import PolicyError, RefusedError, UsageError
from hitl_stream.core.escape import escaped
from hitl_stream.core.events import Rejection
from hitl_stream.core.policy.diff import diff, raises_level_by_more_than_one
from hitl_stream.core.policy.model import Policy
from hitl_stream.lane.admin import cluster_id
from hitl_stream.lane.commander import Make
from hitl_stream.lane.control_reader import read_control
from hitl_stream.settings import Settings, kafka_client, topic_set
from hitl_stream.wire.policy_file import LoadedPolicy, lint_file, parse

SHOWN_MAX = 20
"""Differences of a policy that are printed; `hitl policy diff` prints all."""
Name = Annotated[str, Parameter(name="NAME")]


def register(app: App) -> None:
    """Add the verbs; `hitl policy` is there already."""
    app["policy"].command(promote)
    app.command(level)


# --- what all share ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class InForce:
    """The policy in force, and where it stands."""

    loaded: LoadedPolicy
    place: str

    @property
    def policy(self) -> Policy:
        """Return the policy itself."""
        return self.loaded.policy


def in_force(settings: Settings, control: Control) -> InForce | None:
    """Return the promoted policy, before the first one the settings' file; None where neither is known here."""
    promoted = control.policy
    if promoted is not None:
        place = f"control/{promoted.epoch}"
        return InForce(parse(promoted.text, place), place)
    if settings.policy is None:
        return None
    return InForce(parse(read(settings.policy), str(settings.policy)), str(settings.policy))


async def folded(settings: Settings) -> Control:
    """Fold the control log to its end."""
    client, topics, trust = kafka_client(settings), topic_set(settings), trust_of(settings)
    log = await read_control(client, topics, trust, await cluster_id(client))
    return believed(log, topics.name("control")).control


def known(settings: Settings, control: Control) -> InForce:
    """Return the policy in force; say how to name it where it is not known here."""
    found = in_force(settings, control)
    if found is None:
        raise UsageError(
            "which policy is in force is not known here: none was promoted yet, and no file is named; give the one "
            "that the routers run with, by --policy FILE or HITL_POLICY"
        )
    return found


def named(name: str, there: Iterable[str], what: str, place: str) -> None:
    """Refuse a name that is not there; tell the nearest."""
    names = sorted(there)
    if name not in names:
        close = get_close_matches(name, names, 3, cutoff=0.0)
        near = f"; the nearest: {', '.join(close)}" if close else ""
        raise UsageError(escaped(f"{name!r} is no {what} of {place}{near}"))


# --- policy promote ---------------------------------------------------------------------------------------------------


def promote(
    file: Path, /, *, reason: Reason, key: KeyFlag = None, json: Json = False, flags: SettingsFlags = NO_FLAGS
) -> int:
    """Put a policy in force on every router at once, when another holder confirms it.

    Exit 2 where it breaks a law, 5 where it raises a class by more than one level.

    Parameters
    ----------
    file
        Policy file.
    json
        One object on stdout: {state, epoch, at, confirm, digest, before, differences}.
    """
    checked_reason(reason)
    loaded = _usable(file)
    settings = flags.load()
    signer = signing_key(settings, key)
    telling = Telling(json)
    before: list[InForce] = []

    def prepare(desk: Desk) -> Make:
        before.append(known(settings, desk.log.control))
        _refuse_a_leap(before[0], loaded)
        _say_difference(before[0], loaded, telling)
        return partial(PolicyChange, text=loaded.text, digest=loaded.digest, reason=reason)

    signed = reading(sign_and_append(settings, signer, "policy", prepare))
    name = f"policy {escaped(loaded.policy.policy)} ({loaded.digest[:16]}…)"
    tell(signed, telling, f"{name} decides", f"{name} decides on every router")
    if json:
        found = diff(before[0].policy, loaded.policy)
        emit({
            **signed.row, "digest": loaded.digest,
            "before": {"digest": before[0].loaded.digest, "place": before[0].place},
            "differences": [
                {"path": one.path, "before": one.before, "after": one.after, "direction": one.direction}
                for one in found
            ],
        })  # fmt: skip
    return 0


def _usable(file: Path) -> LoadedPolicy:
    loaded = parse(read(file), str(file))
    errors = tuple(problem for problem in lint_file(loaded) if problem.severity == "error")
    if errors:
        raise PolicyError(str(file), errors)
    return loaded


def _refuse_a_leap(before: InForce, after: LoadedPolicy) -> None:
    if before.loaded.digest == after.digest:
        raise UsageError(f"this very policy is in force already ({before.place}); nothing is appended")
    raised = raises_level_by_more_than_one(before.policy, after.policy)
    if raised:
        named = "; ".join(f"{name} to {after.policy.classes[name].level}" for name in raised)
        raise RefusedError(
            f"not appended: a policy raises a class by one level at a time, and against {before.place} this one raises "
            f"{escaped(named)}. Promote the level between first, and see how it does"
        )


def _say_difference(before: InForce, after: LoadedPolicy, telling: Telling) -> None:
    found = diff(before.policy, after.policy)
    counts = {
        direction: sum(one.direction == direction for one in found) for direction in ("looser", "stricter", "other")
    }
    what = ", ".join(f"{count} {direction}" for direction, count in counts.items() if count) or "no knob"
    telling.line(f"Against the policy in force ({before.place}), {what}:" if found else "No knob changes.")
    order = {"looser": 0, "other": 1, "stricter": 2}
    for one in sorted(found, key=lambda each: order[each.direction])[:SHOWN_MAX]:
        telling.line(f"  {escaped(str(one))}", "red" if one.direction == "looser" else None)
    if len(found) > SHOWN_MAX:
        telling.line(f"  … and {len(found) - SHOWN_MAX} more: hitl policy diff")


# --- level ------------------------------------------------------------------------------------------------------------


def level(
    class_: Annotated[str, Parameter(name="CLASS")],
    to: Annotated[int, Parameter(name="N")],
    /,
    *,
    reason: Reason,
    key: KeyFlag = None,
    json: Json = False,
    flags: SettingsFlags = NO_FLAGS,
) -> int:
    """Say how far a class may go alone, beside the policy: the stricter counts. Lower holds at once, higher waits.

    Parameters
    ----------
    class_
        Class of the policy: an action type.
    to
        1 recommends, 2 asks first, 3 acts and reports, 4 acts and logs.
    json
        One object on stdout: {state, epoch, at, confirm, class, level, file}.
    """
    checked_reason(reason)
    if not 1 <= to <= LEVEL_MAX:
        raise UsageError(f"level {to} is none; they are 1 (recommends) to {LEVEL_MAX} (acts and logs)")
    settings = flags.load()
    signer = signing_key(settings, key)
    telling = Telling(json)
    filed: list[int | None] = []

    def prepare(desk: Desk) -> Make:
        control = desk.log.control
        found = in_force(settings, control)
        if found is not None:
            named(class_, found.policy.classes, "class", found.place)
        filed.append(found.policy.classes[class_].level if found is not None else None)
        current = control.levels.get(class_, LEVEL_MAX)
        if to > current + 1:
            raise RefusedError(
                f"not appended, since it would be refused: {WORDS[Rejection.INVALID]}; the record says level "
                f"{current}, and a level rises by one at a time: hitl level {escaped(class_)} {current + 1}"
            )
        return partial(LevelChange, class_=class_, level=to, reason=reason)

    signed = reading(sign_and_append(settings, signer, "level", prepare))
    file = filed[0]
    counts = "" if file is None else f"; the file says {file}, so {min(file, to)} counts"
    what = f"{escaped(class_)} goes no further than level {to}{counts}"
    tell(signed, telling, what, what)
    if json:
        emit({**signed.row, "class": class_, "level": to, "file": file})
    return 0
