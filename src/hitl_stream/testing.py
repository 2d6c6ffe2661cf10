"""For your tests: whether an adapter keeps its contract, tried out on a platform where that does no harm.

```python
def test_my_adapter_keeps_its_contract():
    asyncio.run(check_adapter(MyAdapter(sandbox), action))
```

What cannot be seen from here: whether the platform enforces epochs, and what it does with a call that arrives late,
after its connection was cut. Product code never imports this module.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

from msgspec.structs import replace

from hitl_stream.core.action import Action, Value
from hitl_stream.core.gate import same
from hitl_stream.execute import Adapter, Applied, Applying, Failed, NotApplied, ReadingBack, Unknown

ANSWER_S_MAX = 30.0
"""An adapter has limits of its own, and none is longer."""
CUT_S_MAX = 1.0
"""A call that is cut off ends in a turn of the event loop; a busy machine is given a second."""
LEASE_MS = 60_000
SETTLE_TRIES_MAX, SETTLE_WAIT_S = 50, 0.1

T = TypeVar("T")
CountApplied = Callable[[Action], Awaitable[int]]
"""Asks the platform itself how often it has carried an action out, by tenant and action id."""


def wall_ms() -> int:
    """Return this machine's clock in milliseconds since 1970."""
    return time.time_ns() // 1_000_000


async def check_adapter(
    adapter: Adapter,
    action: Action,
    *,
    reads: bool = True,
    applied: CountApplied | None = None,
    now_ms: Callable[[], int] = wall_ms,
) -> tuple[str, ...]:
    """Try an adapter out, and return what was found good, a sentence each.

    It is entered and left here. `action`: one that the platform takes, whose every `before` is what stands there now
    and differs from `after`; it is carried out and undone several times, each time under another id, and undone in the
    end. `reads` False: `present` reads nothing, as that of the log adapter. `applied` makes the checks of repeats
    exact; without it, a second application is seen where changes can be read back.

    Raises:
        AssertionError: the first part of the contract that is broken, with what was found.
    """
    async with adapter:
        check = _Check(adapter, action, reads, applied, now_ms)
        await check.unused_key()
        await check.present_value()
        await check.applied_once()
        await check.together()
        await check.not_after()
        await check.cut_off()
        return tuple(check.good)


class _Check:
    def __init__(
        self, adapter: Adapter, action: Action, reads: bool, applied: CountApplied | None, now_ms: Callable[[], int]
    ) -> None:
        self.adapter, self.action, self.now_ms, self._applied = adapter, action, now_ms, applied
        self.reads = reads and bool(action.changes)
        self.good: list[str] = []
        self._tag, self._count = secrets.token_hex(4), 0
        if reads:
            for change in action.changes:
                undoable = change.before is not None and not same(change.before, change.after)
                found = f"{change.before!r} → {change.after!r}"
                _expect(undoable, f"this check needs changes that can be undone; found {found}")

    # --- the contract -------------------------------------------------------------------------------------------------

    async def unused_key(self) -> None:
        action = self._another(self.action)
        for _ in range(2):
            answer = await self._read_back(action)
            _expect(answer == NotApplied(), f"read_back of a key that was never used: {answer}, expected NotApplied")
        self.good.append("a key that was never used is not applied, and asking for it changes nothing")

    async def present_value(self) -> None:
        if self.reads:
            await self._stands("before", "before anything was done")
            await self._stands("before", "read again")
            self.good.append("present reads what stands there, and changes nothing")

    async def applied_once(self) -> None:
        action = self._another(self.action)
        first = await self._do(action)
        self.good.append("an action is carried out")
        found = await self._read_back(action)
        _expect(isinstance(found, Applied), f"read_back of a key that was applied: {found}, expected Applied")
        self._same_ref(first, found)
        self.good.append("a key that was applied reads back as applied")
        if self.reads:
            await self._stands("after", "after it was carried out")
            self.good.append("what was carried out stands there")
        # Undone in between, so that a second application shows.
        await self._undo()
        again = await self._apply(action)
        _expect(isinstance(again, Applied), f"apply with a key that was applied: {again}, expected Applied")
        self._same_ref(first, again)
        if self.reads:
            await self._stands("before", "after the same key came again, and nothing was to change")
        await self._counted(action, 1)
        self.good.append("the same key again changes nothing")

    async def together(self) -> None:
        action = self._another(self.action)
        answers = await asyncio.gather(self._apply(action), self._apply(action))
        for answer in answers:
            _expect(
                not isinstance(answer, Failed), f"two calls at once with one key: {answer}, expected Applied or Unknown"
            )
        found = await self._settled(action)
        _expect(isinstance(found, Applied), f"two calls at once with one key, read back: {found}, expected Applied")
        for answer in answers:
            self._same_ref(found, answer)
        await self._counted(action, 1)
        await self._undo()
        self.good.append("two calls at once with one key are one")

    async def not_after(self) -> None:
        if not self.adapter.fence:
            return
        action = self._another(self.action)
        answer = await self._apply(action, self.now_ms() - 1)
        _expect(not isinstance(answer, Applied), "it says `fence`, and yet carried out what was past its not_after_ms")
        found = await self._settled(action)
        _expect(found == NotApplied(), f"read_back of what was past its not_after_ms: {found}, expected NotApplied")
        if self.reads:
            await self._stands("before", "after a call that was past its not_after_ms")
        await self._counted(action, 0)
        self.good.append("a call that is past its not_after_ms changes nothing")

    async def cut_off(self) -> None:
        action = self._another(self.action)
        task = asyncio.ensure_future(self._apply(action))
        await asyncio.sleep(0)
        open_still = task.cancel()
        await asyncio.wait((task,), timeout=CUT_S_MAX)
        _expect(task.done(), f"apply was cancelled and still runs after {CUT_S_MAX:g} s")
        _expect(
            task.cancelled() or not open_still,
            "apply was cancelled and answered all the same; let CancelledError through",
        )
        found = await self._settled(action)
        if isinstance(found, Applied):
            await self._undo()
        self.good.append("a call that is cut off ends at once")

    # --- its steps ----------------------------------------------------------------------------------------------------

    def _another(self, action: Action) -> Action:
        self._count += 1
        return replace(action, action_id=f"{action.action_id}-{self._tag}-{self._count}")

    async def _do(self, action: Action) -> Applied:
        answer = await self._apply(action)
        _expect(
            isinstance(answer, Applied), f"apply: {answer}, expected Applied; give an action that the platform takes"
        )
        assert isinstance(answer, Applied)
        return answer

    async def _undo(self) -> None:
        changes = tuple(replace(change, before=change.after, after=change.before) for change in self.action.changes)
        if changes:
            await self._do(self._another(replace(self.action, changes=changes)))

    async def _apply(self, action: Action, not_after_ms: int | None = None) -> Applying:
        not_after_ms = self.now_ms() + LEASE_MS if not_after_ms is None else not_after_ms
        answer = await _answered("apply", self.adapter.apply(action, _key(action), not_after_ms, 0))
        known = isinstance(answer, Applied | Failed | Unknown)
        _expect(known, f"apply answered {answer!r}, expected Applied, Failed or Unknown")
        return answer

    async def _read_back(self, action: Action) -> ReadingBack:
        answer = await _answered("read_back", self.adapter.read_back(action, _key(action)))
        known = isinstance(answer, Applied | NotApplied | Unknown)
        _expect(known, f"read_back answered {answer!r}, expected Applied, NotApplied or Unknown")
        return answer

    async def _settled(self, action: Action) -> ReadingBack:
        """Ask until the platform knows; a call may be under way."""
        for _ in range(SETTLE_TRIES_MAX):
            answer = await self._read_back(action)
            if not isinstance(answer, Unknown):
                return answer
            await asyncio.sleep(SETTLE_WAIT_S)
        raise AssertionError(f"read_back: {answer}, and that for {SETTLE_TRIES_MAX * SETTLE_WAIT_S:g} s")

    async def _stands(self, side: str, when: str) -> None:
        for index, change in enumerate(self.action.changes):
            expected: Value | None = getattr(change, side)
            found = await _answered("present", self.adapter.present(change, self.action))
            _expect(not isinstance(found, Unknown), f"present of /changes/{index} {when}: {found}")
            assert not isinstance(found, Unknown)
            _expect(same(expected, found), f"present of /changes/{index} {when}: {found!r}, expected {expected!r}")

    async def _counted(self, action: Action, expected: int) -> None:
        if self._applied is not None:
            found = await self._applied(action)
            _expect(found == expected, f"the platform carried out one key {found} times, expected {expected}")

    def _same_ref(self, one: object, other: object) -> None:
        refs = [answer.ref for answer in (one, other) if isinstance(answer, Applied) and answer.ref is not None]
        _expect(len(set(refs)) <= 1, f"one key has two refs, {' and '.join(refs)}: it was carried out twice")


async def _answered(what: str, answer: Awaitable[T]) -> T | Unknown:
    """Return the answer; an exception is one that says nothing, as it is for the executor."""
    try:
        async with asyncio.timeout(ANSWER_S_MAX) as limit:
            return await answer
    except Exception as error:
        if limit.expired():
            raise AssertionError(f"{what} gave no answer within {ANSWER_S_MAX:g} s") from None
        return Unknown(f"{what} raised {type(error).__name__}: {error}")


def _key(action: Action) -> str:
    return f"{action.tenant}/{action.action_id}/check"


def _expect(good: bool, otherwise: str) -> None:
    if not good:
        raise AssertionError(otherwise)
