"""How kill switches stand, seen from outside: what is engaged, whether it is proved, who waits, who is heard.

`hitl switches` draws it, and the console's pages show it. What no control role that is heard has proved is never called
EFFECTIVE.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from hitl_stream.core.commands import Contained, ReleaseRequest, Waiting
from hitl_stream.core.control import Control, Pending
from hitl_stream.core.events import Rejection
from hitl_stream.core.switches import Switch
from hitl_stream.lane.heartbeats import SILENT_MS, Beat
from hitl_stream.lane.instances import Instances, Seen
from hitl_stream.wire.records import time_text


@dataclass(frozen=True)
class Picture:
    """What was found: the fold, the control roles that speak, and the instances that acknowledge.

    `silent_ms` is for how long no heartbeat came; `now_ms` is the broker's time as far as it is known.
    """

    control: Control
    alive: Mapping[str, Beat]
    silent_ms: int
    instances: Instances
    refused: Mapping[Rejection, int] = field(default_factory=dict)

    @property
    def heard(self) -> bool:
        """Say whether a control role speaks."""
        return bool(self.alive) and self.silent_ms < SILENT_MS

    @property
    def now_ms(self) -> int:
        """Return the newest append time that was seen."""
        return max([self.control.at_ms, *(beat.at_ms for beat in self.alive.values())])

    @property
    def effective(self) -> int:
        """Return up to which epoch everything engaged is proved."""
        return max((beat.heartbeat.effective for beat in self.alive.values()), default=-1)

    @property
    def waiting(self) -> tuple[Waiting, ...]:
        """Return who is waited for, by the control role that has proved most."""
        return self._foremost.heartbeat.waiting if self._foremost else ()

    @property
    def contained(self) -> tuple[Contained, ...]:
        """Return the calls that nobody can prove to be over."""
        return self._foremost.heartbeat.contained if self._foremost else ()

    @property
    def _foremost(self) -> Beat | None:
        return max(self.alive.values(), key=lambda beat: (beat.heartbeat.effective, beat.at_ms), default=None)


# --- what it comes to -------------------------------------------------------------------------------------------------


def state_of(switch: Switch, picture: Picture) -> str:
    """Return whether a switch is proved to be EFFECTIVE, as a word."""
    if switch.released is not None:
        return "released"
    if not picture.heard:
        return "unknown"
    if switch.epoch <= picture.effective:
        return "EFFECTIVE"
    if not picture.waiting and any(one.epoch == switch.epoch for one in picture.contained):
        return "CONTAINED"
    return "not proved"


def asked_for(epoch: int, control: Control) -> list[Pending]:
    """Return the requests that wait and would release a switch."""
    return [
        one
        for one in control.pending.values()
        if isinstance(one.command, ReleaseRequest) and epoch in one.command.epochs
    ]


def shown(picture: Picture, all_: bool) -> list[Switch]:
    """Return the switches to show, oldest first."""
    found = picture.control.switches
    return list((found.all if all_ else found.engaged).values())


def data(picture: Picture, all_: bool) -> dict[str, Any]:
    """Return everything as plain data."""
    control = picture.control
    return {
        "epoch": control.epoch,
        "heard": picture.heard,
        "effective": picture.effective,
        "control": control_data(picture),
        **standing_data(picture),
        "switches": [_switch_data(one, picture) for one in shown(picture, all_)],
        "pending": [_pending_data(one) for one in control.pending.values()],
        "instances": [instance_data(name, seen, picture) for name, seen in sorted(picture.instances.latest.items())],
    }


def control_data(picture: Picture) -> list[dict[str, Any]]:
    """Return the control roles that speak."""
    return [
        {
            "instance": name,
            "at": time_text(beat.at_ms),
            "epoch": beat.heartbeat.epoch,
            "effective": beat.heartbeat.effective,
        }
        for name, beat in sorted(picture.alive.items())
    ]


def standing_data(picture: Picture) -> dict[str, list[dict[str, Any]]]:
    """Return who is waited for, and the calls that nobody can prove to be over."""
    return {
        "waiting": [{"instance": one.instance, "since_s": one.since_s} for one in picture.waiting],
        "contained": [{"epoch": one.epoch, "instance": one.instance, "calls": one.calls} for one in picture.contained],
    }


def _switch_data(switch: Switch, picture: Picture) -> dict[str, Any]:
    return {
        "epoch": switch.epoch,
        "mode": switch.mode.value,
        "scope": switch.scope,
        "by": switch.by,
        "source": switch.source,
        "since": time_text(switch.at_ms),
        "reason": switch.reason,
        "state": state_of(switch, picture),
        "released": switch.released,
        "asked": [one.epoch for one in asked_for(switch.epoch, picture.control)],
    }


def _pending_data(pending: Pending) -> dict[str, Any]:
    command = pending.command
    return {
        "epoch": pending.epoch,
        "typ": command.__struct_config__.tag,
        "by": pending.holder,
        "at": time_text(pending.at_ms),
        "epochs": command.epochs if isinstance(command, ReleaseRequest) else None,
        "reason": getattr(command, "reason", None),
    }


def instance_data(name: str, seen: Seen, picture: Picture) -> dict[str, Any]:
    """Return what one instance says of itself, and for how long its lease held when control last spoke."""
    return {
        "instance": name,
        "role": seen.ack.role,
        "version": seen.ack.version,
        "partitions": seen.ack.partitions,
        "epoch": seen.ack.epoch,
        "open_epoch": seen.ack.open_epoch,
        "calls": seen.ack.calls,
        "lease_left_ms": picture.instances.lease_left_ms(name, list(picture.alive.values())),
        "checked": seen.checked,
    }
