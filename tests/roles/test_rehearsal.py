"""Drills do not reach the platform; everything else does, unchanged."""

from __future__ import annotations

import asyncio
from typing import Any, Self

import pytest
from msgspec import structs

from hitl_stream.core.action import Action, Change, Value
from hitl_stream.execute import Adapter, Applied, Failed, NotApplied
from hitl_stream.roles.rehearsal import Rehearsed
from support.make import make_action


class Platform(Adapter):
    """Notes what it is asked."""

    fence = True

    def __init__(self) -> None:
        self.asked: list[str] = []

    async def __aenter__(self) -> Self:
        self.asked.append("enter")
        return self

    async def __aexit__(self, *_: Any) -> None:
        self.asked.append("exit")

    async def apply(self, action: Action, idempotency_key: str, not_after_ms: int, epoch: int) -> Failed:
        self.asked.append(f"apply {idempotency_key} {not_after_ms} {epoch}")
        return Failed(400, "no")

    async def read_back(self, action: Action, idempotency_key: str) -> NotApplied:
        self.asked.append(f"read_back {idempotency_key}")
        return NotApplied()

    async def present(self, change: Change, action: Action) -> Value | None:
        self.asked.append(f"present {change.field}")
        return "9.99"


async def ask(platform: Platform, tenant: str) -> list[Any]:
    action = structs.replace(make_action(), tenant=tenant)
    async with Rehearsed(platform) as adapter:
        return [
            await adapter.apply(action, "key", 5, 7),
            await adapter.read_back(action, "key"),
            await adapter.present(action.changes[0], action),
        ]


@pytest.mark.parametrize("tenant", ["drill", "Drill", " drill "])
def test_a_drill_is_answered_without_asking_the_platform(tenant: str):
    platform = Platform()
    assert asyncio.run(ask(platform, tenant)) == [Applied("drill"), Applied("drill"), "1.20"]
    assert platform.asked == ["enter", "exit"]


@pytest.mark.parametrize("tenant", ["acme", "drill-2", "", "driller"])
def test_everything_else_is_the_platform_s(tenant: str):
    platform = Platform()
    assert asyncio.run(ask(platform, tenant)) == [Failed(400, "no"), NotApplied(), "9.99"]
    assert platform.asked == ["enter", "apply key 5 7", "read_back key", "present bid", "exit"]


def test_the_platform_s_fence_is_its_own():
    assert Rehearsed(Platform()).fence
