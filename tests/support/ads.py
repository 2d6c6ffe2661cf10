"""What tests of adapters share: a clock that stands still, actions, and a fake ad platform to try them on."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from hitl_stream.adapters.http import HttpAdapter, http_options
from hitl_stream.core.action import Action
from hitl_stream.dev.platform import NO_FAULTS, Faults, Place, Platform
from support.kafka import POLL_SECONDS, within
from support.make import NOW_MS, change, make_action

T = TypeVar("T")
LEASE_MS = 2_000
KEY = "acme/act-1/9f86"
BID = Place("acme", "acc-17", "cmp-204", "bid")


class StillClock:
    """Control time that goes only where a test moves it."""

    def __init__(self, ms: int = NOW_MS) -> None:
        self.ms = ms

    def __call__(self) -> int:
        return self.ms


def key_of(action: Action) -> str:
    """Return the key that an executor would use, but for the hash."""
    return f"{action.tenant}/{action.action_id}/9f86"


def bid(number: int = 1, before: str = "1.20", after: str = "1.30", **parts: Any) -> Action:
    """Return an action that changes the bid of one campaign."""
    return make_action(action_id=f"act-{number}", changes=[change(before, after, **parts)])


def trying(
    scenario: Callable[[Platform, HttpAdapter], Awaitable[T]],
    faults: Faults = NO_FAULTS,
    *,
    clock: StillClock | None = None,
    platform: dict[str, Any] | None = None,
    **options: Any,
) -> T:
    """Run a scenario with a platform, on which `BID` stands at 1.20, and an adapter that is entered."""
    now_ms = clock or StillClock()

    async def run() -> T:
        async with Platform(faults=faults, **{"now_ms": now_ms, **(platform or {})}) as ads:
            ads.books.put(BID, "1.20", "EUR")
            async with HttpAdapter(http_options({"base_url": ads.url, **options}), now_ms) as adapter:
                return await scenario(ads, adapter)

    return within(run())


async def until(reached: Callable[[], Any]) -> None:
    """Wait for something that another task brings about; the scenario's own time limit ends it."""
    while not reached():  # noqa: ASYNC110 - nobody tells of it
        await asyncio.sleep(POLL_SECONDS)
