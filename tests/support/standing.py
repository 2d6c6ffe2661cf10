"""How things stand, as tests of the pages set it: control roles, instances, switches; and what a page weighs."""

from __future__ import annotations

import gzip
from collections import deque
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

from playwright.sync_api import Page, Response

from hitl_stream.core.commands import Heartbeat, ReleaseRequest
from hitl_stream.core.control import Pending
from hitl_stream.core.events import Mode
from hitl_stream.core.switches import Switch, Switches
from hitl_stream.lane.heartbeats import Beat
from hitl_stream.lane.instances import Instances, Seen
from hitl_stream.wire.records import Ack
from support.console import Front
from support.make import NOW_MS
from support.served import Served
from support.signed import CONTROL, claims

EPOCH = 40
ROLES = ("router", "desk", "executor")
PAGE_BYTES_MAX = 60_000
"""Compressed, all of it (review-desk.md, Budgets)."""


def heartbeat(effective: int = EPOCH, **parts: Any) -> Beat:
    """Return what a control role says, that it proves everything up to `effective`."""
    said = {"seq": 1, "control": "host-1/control/0", "epoch": EPOCH, "digest": "0" * 64, "effective": effective}
    return Beat(
        Heartbeat(**claims(CONTROL), **{"acks": {f"host-1/{role}/0": 5 for role in ROLES}, **said, **parts}),
        NOW_MS,
        True,
    )


def quiet(found: Front) -> None:
    """Let everything run, and nothing be stopped."""
    watch = found.watch
    watch.control.epoch, watch.control.switches = EPOCH, Switches()
    watch.control.pending.clear()
    watch.took.clear()
    watch.silent_ms, watch.effective = 100, EPOCH
    watch.beats = {"host-1/control/0": heartbeat()}
    watch.instances = Instances("hitl.control.acks", {})
    for role in ROLES:
        ack = Ack(n=5, instance=f"host-1/{role}/0", role=role, version="1.0", partitions=(0, 1, 2, 5), epoch=EPOCH)
        watch.instances.latest[ack.instance] = Seen(ack, NOW_MS, True)
        watch.instances._numbers[ack.instance] = deque([(5, NOW_MS - 100)])
    found.commands.clear()


def engaged(
    epoch: int, *scope: str, mode: Mode = Mode.HALT, reason: str | None = None, **parts: Any
) -> Callable[[Front], None]:
    """Return what engages a switch."""

    def work(found: Front) -> None:
        switch = Switch(epoch, scope or ("campaign:cmp-204",), mode, "kim", NOW_MS, reason, **parts)
        found.watch.control.switches.engage(switch)

    return work


def proved(epoch: int, took_ms: int | None = None, **parts: Any) -> Callable[[Front], None]:
    """Return what lets control prove everything up to an epoch, and no further."""

    def work(found: Front) -> None:
        found.watch.beats = {"host-1/control/0": heartbeat(epoch, **parts)}
        found.watch.effective = epoch
        if took_ms is not None:
            found.watch.took[epoch] = took_ms

    return work


def asked(epoch: int, *epochs: int, by: str = "ana", reason: str = "mended") -> Callable[[Front], None]:
    """Return what asks for a release."""

    def work(found: Front) -> None:
        common = {"aud": "c", "kid": f"{by}-1", "iss": by, "jti": "j", "iat": 1, "exp": 2}
        found.watch.control.pending[epoch] = Pending(
            epoch, NOW_MS, ReleaseRequest(**common, epochs=epochs, reason=reason), by
        )

    return work


def do(console: Served, *works: Callable[[Front], None]) -> None:
    """Change how things stand, where the console runs."""

    async def all_(found: Front) -> None:
        for work in works:
            work(found)

    console.do(all_)


class Weight:
    """What a page loads but for data: its shell, style and scripts."""

    def __init__(self, page: Page) -> None:
        self._loaded: list[Response] = []
        page.on("response", self._add)

    def _add(self, response: Response) -> None:
        if not urlsplit(response.url).path.startswith(("/api/", "/events")):
            self._loaded.append(response)

    @property
    def bytes(self) -> int:
        """Return how much it is, compressed."""
        return sum(len(gzip.compress(response.body())) for response in self._loaded)


FRAMES = """async () => {
  for (let frame = 0; frame < 4; frame += 1) await new Promise(requestAnimationFrame);
  return document.documentElement.scrollWidth;
}"""
"""How wide a page is once it has been laid out, its charts have learnt their new width, and are drawn anew."""


def fits_small_screen(page: Page) -> bool:
    """Say whether nothing reaches over the edge of a small screen."""
    page.set_viewport_size({"width": 360, "height": 780})
    return bool(page.evaluate(FRAMES) <= 360)
