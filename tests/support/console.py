"""A console over a view and accounts of its own, with fakes where Kafka would be, asked over HTTP without a socket.

`front` gives one into which records were folded. `PEOPLE` are who work there; `ask` shows somebody's token.
"""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
from argon2 import PasswordHasher
from fastapi import FastAPI

from hitl_stream.console.app import application
from hitl_stream.console.office import Office, Page, Place, Standing
from hitl_stream.console.pairs import Pairs
from hitl_stream.console.people import DAY_MS, Kind, People, Scope, open_people
from hitl_stream.console.sign import Signer
from hitl_stream.console.view import SqlStore, open_view
from hitl_stream.core.commands import Command, KeyEntry
from hitl_stream.core.control import Control
from hitl_stream.core.policy.model import Policy
from hitl_stream.core.verdicts import VERDICT_TYPES
from hitl_stream.lane.heartbeats import Beat
from hitl_stream.lane.instances import Instances
from hitl_stream.lane.picture import Picture
from hitl_stream.roles.policies import Policies
from hitl_stream.wire.desk_records import Pair, VerdictRecord, decode_verdict_record
from hitl_stream.wire.records import encode
from hitl_stream.wire.seal import SealKey
from hitl_stream.wire.topics import TopicSet
from support.make import NOW_MS, FakeRecord, acme
from support.people import CLUSTER, CONSOLE_KEY, entry
from support.view import ends, folded

API = "/api/v1"
PARTITIONS = 4
VIA_KEY = SealKey("w1", b"\x09" * 32)
QUICK = PasswordHasher(time_cost=1, memory_cost=8, parallelism=1)
PASSWORD = "correct horse battery"
UNTIL_MS = NOW_MS + 30 * DAY_MS
EVERY = tuple(Scope)
PEOPLE: Mapping[str, Mapping[str, Any]] = {
    "ana": {"roles": ("trader",), "tenants": ("acme",)},
    "ben": {"roles": ("trader",), "tenants": ("acme",)},
    "otto": {"roles": ("trader",), "tenants": ("other",)},
    "mia": {"roles": ("marketing_manager",), "tenants": ("acme",)},
    "carl": {"roles": ("client",), "tenants": ("acme",)},
    "lea": {"roles": ("labeller",), "tenants": ("acme",)},
    "vic": {"roles": ("viewer",), "tenants": ("acme",)},
    "uma": {"roles": ("auditor",), "tenants": ("acme",)},
    "kim": {"roles": ("kill-operator",), "tenants": None},
    "kurt": {"roles": ("kill-operator",), "tenants": ("acme",)},
    "bidder-7": {"kind": Kind.SERVICE, "tenants": ("acme",)},
    "stopper": {"kind": Kind.SERVICE, "roles": ("kill-operator",), "tenants": None},
}
CLASSES = ("bid.adjust", "budget.reallocate")
"""What everybody who decides is qualified for."""


@dataclass
class FakeWatch:
    """The control log as a test has it."""

    control: Control = field(default_factory=Control)
    audience: str = CLUSTER
    effective: int = -1
    away: str = ""
    at_ms: int = NOW_MS
    beats: dict[str, Beat] = field(default_factory=dict)
    """By control role: those that speak."""
    silent_ms: int = 100
    instances: Instances = field(default_factory=lambda: Instances("hitl.control.acks", {}))
    took: dict[int, int] = field(default_factory=dict)

    def now_ms(self) -> int:
        return self.at_ms

    def missing(self) -> str:
        return self.away

    def picture(self) -> Picture:
        return Picture(self.control, self.beats, self.silent_ms, self.instances)

    def took_ms(self, epoch: int) -> int | None:
        return self.took.get(epoch)


@dataclass
class FakeLog:
    """Kafka, as far as the console writes to it. With `error`, that is raised instead."""

    written: list[tuple[str, int, bytes, bytes | None, Sequence[tuple[str, bytes]]]] = field(default_factory=list)
    error: Exception | None = None
    after: Exception | None = None
    """Raised once it is written: the answer is lost."""

    async def append(
        self, topic: str, partition: int, value: bytes, *, key: bytes | None = None, headers: Any = ()
    ) -> Place:
        if self.error is not None:
            raise self.error
        self.written.append((topic, partition, value, key, headers))
        if self.after is not None:
            raise self.after
        return Place(f"hitl.{topic}", partition, len(self.written) - 1, NOW_MS)

    def verdicts(self) -> list[VerdictRecord]:
        """Return what was appended to `verdicts`."""
        return [decode_verdict_record(value) for topic, _, value, *_ in self.written if topic == "verdicts"]


class Front:
    """A console, and who asks it."""

    def __init__(self, office: Office, app: FastAPI, client: httpx.AsyncClient, log: FakeLog, watch: FakeWatch) -> None:
        self.office, self.app, self.client, self.log, self.watch = office, app, client, log, watch
        self.commands: list[Command] = []
        self.feedback: list[bytes] = []
        self.now_ms = NOW_MS
        self._tokens: dict[tuple[str, tuple[Scope, ...]], str] = {}

    @property
    def people(self) -> People:
        return self.office.people

    async def fold(self, *records: FakeRecord, as_of_ms: int = 0) -> None:
        """Let records be read."""
        changes = folded(*records)
        assert await self.office.store.apply(changes, ends(changes), as_of_ms=as_of_ms)

    async def token(self, name: str, scopes: Sequence[Scope] | None = None) -> str:
        """Return a token of somebody, for everything that they may do, or for these scopes."""
        account = await self.people.account(name)
        assert account is not None, name
        wanted = tuple(scopes) if scopes is not None else tuple(one for one in EVERY if account.may_use(one))
        if (name, wanted) not in self._tokens:
            self._tokens[name, wanted] = (await self.people.issue(name, wanted, UNTIL_MS, NOW_MS)).secret
        return self._tokens[name, wanted]

    async def session(self, name: str, client: httpx.AsyncClient | None = None) -> str:
        """Sign somebody in with a password, and return the session's secret."""
        found = await self.ask("POST", "/sessions", None, {"name": name, "password": PASSWORD})
        assert found.status_code == 201, found.text
        return str(found.json()["token"])

    async def ask(
        self,
        method: str,
        path: str,
        by: str | None = "ana",
        body: Any = None,
        *,
        token: str | None = None,
        headers: Mapping[str, str] | None = None,
        **query: Any,
    ) -> httpx.Response:
        """Send a request with somebody's token; `by` None: with none."""
        shown = token if token is not None else None if by is None else await self.token(by)
        sent = {"Authorization": f"Bearer {shown}"} if shown is not None else {}
        content = body if isinstance(body, bytes) else None if body is None else json.dumps(body).encode()
        return await self.client.request(
            method, API + path, content=content, params=query or None,
            headers={"Content-Type": "application/json", **sent, **(headers or {})},
        )  # fmt: skip

    async def card(self, item: str, by: str = "ana") -> tuple[str, str, str]:
        """Look at an item and say that it is painted; return card, view and receipt."""
        found = (await self.ask("GET", f"/items/{item}", by)).json()
        painted = await self.ask("POST", f"/items/{item}/painted", by, {"view": found["view"]})
        assert painted.status_code == 200, painted.text
        return found["card"], found["view"], painted.json()["receipt"]

    async def say(self, item: str, verdict: str = "approve", by: str = "ana", **more: Any) -> httpx.Response:
        """Look at an item, and judge it."""
        _, view, receipt = await self.card(item, by)
        token = more.pop("token", None)
        body = {"verdict": verdict, "view": view, "painted": receipt, **more}
        return await self.ask("POST", f"/items/{item}/verdict", by, body, token=token)


@asynccontextmanager
async def front(
    directory: Path, *records: FakeRecord, policy: Policy | None = None, names: Sequence[str] | None = None
) -> AsyncIterator[Front]:
    """Give a console into which records were folded, with the accounts of `PEOPLE` (or of `names` only)."""
    numbers = itertools.count(100)
    store, people = open_view(directory / "view.db"), open_people(directory / "people.db", QUICK)
    log, watch = FakeLog(), FakeWatch()
    watch.control.keys = keys()
    made: list[Front] = []

    async def engage(make: Callable[..., Command]) -> Standing:
        claims = {
            "aud": CLUSTER,
            "kid": "console-1",
            "iss": "console",
            "jti": f"j-{next(numbers)}",
            "iat": 0,
            "exp": 900,
        }
        made[0].commands.append(make(**claims))
        return Standing(next(numbers), NOW_MS)

    async def read_feedback(after: Mapping[int, int], limit: int) -> Page:
        start = after.get(0, 0)
        rows = tuple(made[0].feedback[start : start + limit])
        return Page(rows, {0: start + len(rows)}, start + len(rows) < len(made[0].feedback))

    policies = Policies(policy if policy is not None else acme().policy, "d" * 64, watch.control)
    office = Office(
        store=store, people=people, signer=Signer(CONSOLE_KEY), watched=watch, policies=policies.at, writer=log,
        engage=engage, read_feedback=read_feedback, pairs=Pairs(), topics=TopicSet(partitions=PARTITIONS),
        clock_ms=lambda: made[0].now_ms, via_key=VIA_KEY, tenant="",
    )  # fmt: skip
    app = application(office)
    transport = httpx.ASGITransport(app=app, raise_app_exceptions=False)
    try:
        await store.offsets()
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            made.append(found := Front(office, app, client, log, watch))
            await hire(people, names)
            if records:
                await found.fold(*records)
            yield found
    finally:
        await store.close()
        await people.close()


async def hire(people: People, names: Sequence[str] | None = None) -> None:
    """Make the accounts."""
    for name in names if names is not None else PEOPLE:
        account = await people.add(name, NOW_MS, **PEOPLE[name])
        if account.kind is Kind.PERSON:
            await people.set_password(name, PASSWORD)
        if account.queue_roles:
            for class_ in CLASSES:
                await people.qualify(name, class_, UNTIL_MS)


def keys() -> dict[str, KeyEntry]:
    """Return the keys that control lists: the console's."""
    return {CONSOLE_KEY.key_id: entry(CONSOLE_KEY, *VERDICT_TYPES, "engage")}


def pair(name: str = "p-1", **parts: Any) -> FakeRecord:
    """Return a pair that waits to be compared."""
    fields = {"pair": name, "tenant": "acme", "prompt": "A headline for shoes", "a": "Run.", "b": "Walk."}
    return FakeRecord(encode(Pair(**fields | parts)), 0, 2, topic="hitl.pairs")


def run(scenario: Any) -> Any:
    """Run a scenario under a limit."""

    async def limited() -> Any:
        async with asyncio.timeout(60):
            return await scenario

    return asyncio.run(limited())


__all__ = ["API", "PEOPLE", "FakeLog", "FakeWatch", "Front", "SqlStore", "front", "hire", "pair", "run"]
