"""An installation as on-call people meet it: topics, two people's keys, services' keys, and a control role to order.

`FakeControl` says in signed heartbeats what a test wants it to say; it runs beside the command that is tested.
"""

from __future__ import annotations

import asyncio
import hashlib
import threading
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, Self

import pytest

import hitl_stream.cli.main
from hitl_stream.core.commands import TYPES, Command, Contained, Engage, Heartbeat, Keys, Waiting
from hitl_stream.core.events import Mode
from hitl_stream.lane.admin import apply, cluster_id
from hitl_stream.lane.commander import Appended, Make, append
from hitl_stream.lane.control_reader import read_control, reading_control
from hitl_stream.wire.control_log import ControlLog
from hitl_stream.wire.signing import SigningKey, create_signing_key, key_entry, sign
from hitl_stream.wire.topics import TopicSet
from support.kafka import producing, within

TOPICS = ("actions", "execute", "review", "escalation", "held", "control", "control.heartbeat", "control.acks")
SERVICE_TYPES = {"control": ("heartbeat", "engage", "release_request"), "host": ("engage",)}
DAY_S = 86_400
BEAT_S = 0.05
VERBS = (
    "policy", "keys", "confirm", "kill", "release", "switches", "rules", "gates", "pin", "farewell", "report",
    "report_gates",
)  # fmt: skip
"""Those that a test in this process can call."""


@dataclass
class OnCall:
    """One installation; `people` and services have keys `<name>-1` in `keys_dir`."""

    bootstrap: str
    prefix: str
    state_dir: Path
    partitions: int = 2
    people: Sequence[str] = ("ana", "ben")
    trust: str = ""
    keys: dict[str, SigningKey] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.topics = TopicSet(self.prefix, self.partitions)
        self.client = {"bootstrap_servers": self.bootstrap}
        self.keys_dir = self.state_dir / "keys"

    def begin(self, topics: Sequence[str] = TOPICS) -> Self:
        """Make topics and keys, and append the first `keys` record."""
        within(apply(self.client, self.topics, topics))
        for name in self.people:
            self.keys[name] = create_signing_key(self.keys_dir, f"{name}-1", name)
        for name in SERVICE_TYPES:
            self.keys[name] = create_signing_key(self.keys_dir, f"{name}-1", name, "service")
        appended = within(append(self.client, self.topics, self.keys[self.people[0]], self._first))
        self.trust = hashlib.sha256(appended.value).hexdigest()
        return self

    def _first(self, **claims: Any) -> Command:
        from_ = datetime.fromtimestamp(claims["iat"] - 300, UTC)
        until = datetime.fromtimestamp(claims["iat"] + DAY_S, UTC)
        entries = [key_entry(key, SERVICE_TYPES.get(name, TYPES), from_, until) for name, key in self.keys.items()]
        return Keys(keys=tuple(entries), **claims)

    def environ(self) -> dict[str, str]:
        """Return the settings as environment variables."""
        return {
            "HITL_KAFKA": self.bootstrap,
            "HITL_PREFIX": self.prefix,
            "HITL_PARTITIONS": str(self.partitions),
            "HITL_STATE_DIR": str(self.state_dir),
            "HITL_TRUST": self.trust,
        }

    def settle(self, monkeypatch: pytest.MonkeyPatch) -> Self:
        """Make this the installation that commands of this process are about."""
        for name, value in self.environ().items():
            monkeypatch.setenv(name, value)
        monkeypatch.chdir(self.state_dir)
        monkeypatch.setattr(hitl_stream.cli.main, "VERBS", VERBS)
        return self

    def command(self, who: str, make: Make) -> Appended:
        """Append a command with somebody's key."""
        return within(append(self.client, self.topics, self.keys[who], make))

    def engage(self, *scope: str, mode: Mode = Mode.HALT, who: str = "ana", **fields: Any) -> int:
        """Engage a switch; return its epoch."""
        return self.command(who, partial(Engage, scope=scope, mode=mode, **fields)).epoch

    def log(self) -> ControlLog:
        """Fold what stands on control."""

        async def folded() -> ControlLog:
            return await read_control(self.client, self.topics, self.trust, await cluster_id(self.client))

        return within(folded())


def hitl(*arguments: str) -> int:
    """Run one command in this process; return its exit code."""
    return hitl_stream.cli.main.run([*arguments])


class FakeControl(threading.Thread):
    """A control role that proves whatever `effective` says: everything, up to an epoch, or nothing (−1).

    `waiting` and `contained` are said of what is not effective; a farewell ends the latter. As a context it beats;
    `silent` stops that.
    """

    def __init__(self, place: OnCall, name: str = "host-1/control/0") -> None:
        super().__init__(daemon=True)
        self.place, self.instance = place, name
        self.effective: int | None = None
        self.waiting: tuple[Waiting, ...] = ()
        self.contained: tuple[Contained, ...] = ()
        self.acks: dict[str, int] = {}
        self.silent = False
        self.believing = True
        """Whether a farewell ends what is contained: not where the instance has acknowledged since."""
        self.key = place.keys["control"]
        self._ending = threading.Event()
        self._beating = threading.Event()
        self._failed: BaseException | None = None

    def __enter__(self) -> Self:
        self.start()
        assert self._beating.wait(20), self._failed
        return self

    def __exit__(self, *_: object) -> None:
        self._ending.set()
        self.join(20)
        if self._failed is not None:
            raise self._failed

    def run(self) -> None:
        """Beat until the end."""
        try:
            asyncio.run(self._run())
        except BaseException as error:
            self._failed = error

    async def _run(self) -> None:
        place, topic = self.place, self.place.topics.name("control.heartbeat")
        audience = await cluster_id(place.client)
        async with (
            producing(place.bootstrap, acks="all") as producer,
            reading_control(place.client, place.topics, place.trust, audience) as reader,
        ):
            seq = 0
            while not self._ending.is_set():
                log = await reader.catch_up()
                if not self.silent:
                    seq += 1
                    now_s = (await producer.send_and_wait(topic, self._beat(log, seq), partition=0)).timestamp // 1000
                    self._now_s = now_s
                    self._beating.set()
                await asyncio.sleep(BEAT_S)

    def _beat(self, log: ControlLog, seq: int) -> bytes:
        control = log.control
        issued = max(control.at_ms // 1000, getattr(self, "_now_s", 0))
        effective = control.epoch if self.effective is None else min(self.effective, control.epoch)
        open_ = effective < control.engaged_at
        contained = [
            one for one in self.contained if open_ and not (self.believing and one.instance in control.farewells)
        ]
        beat = Heartbeat(
            aud=log.audience, kid=self.key.key_id, iss=self.key.holder, jti=uuid.uuid4().hex, iat=issued,
            exp=issued + 60, seq=seq, control=self.instance, epoch=control.epoch, digest=control.digest.hex(),
            acks=dict(self.acks), effective=effective, waiting=self.waiting if open_ else (),
            contained=tuple(contained),
        )  # fmt: skip
        return sign(self.key, beat)
