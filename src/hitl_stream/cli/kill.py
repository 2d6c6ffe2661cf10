"""`hitl kill`: one line that stops something. It appends first, then says what it covers, and waits for the proof.

It talks to Kafka alone, with a key that lies here. Nothing is read before the command is appended: every reader judges
it for itself, and so does this verb afterwards. Whatever goes wrong is said with what stops everything all the same.
"""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from typing import Any

from cyclopts import App

from hitl_stream.cli import scopes
from hitl_stream.cli.appending import REASON_LENGTH_MAX, KeyFlag, signing_key
from hitl_stream.cli.control_words import WORDS
from hitl_stream.cli.live import Presses, Telling, coverage_lines, silence_lines, standing_lines
from hitl_stream.cli.scopes import ScopeFlag
from hitl_stream.cli.settings import NO_FLAGS, Json, SettingsFlags, Timeout
from hitl_stream.cli.terminal import emit
from hitl_stream.cli.topics import reading
from hitl_stream.core.commands import Engage
from hitl_stream.core.errors import HitlError, RefusedError, UnknownOutcomeError, UnreachableError, UsageError
from hitl_stream.core.escape import escaped
from hitl_stream.core.events import Mode
from hitl_stream.lane.coverage import Coverage, coverage
from hitl_stream.lane.heartbeats import APPENDED, SILENT_MS, Beat, Heartbeats, Standing, listening, standing
from hitl_stream.lane.once import FindingLog, Once, append_once, finding
from hitl_stream.settings import Settings, kafka_client, topic_set
from hitl_stream.wire.records import time_text
from hitl_stream.wire.signing import SigningKey

DONE, NOT_IN_TIME, INTERRUPTED = 0, 3, 130
HEAR_SECONDS = 0.1
READ_BACK_SECONDS_MAX = 10.0
NOT_KNOWN = "Whether it is engaged is NOT known: Kafka had not answered. Say it again; a repeat does no harm."
KNOWN = "It stays engaged; `hitl switches` shows it."


def register(app: App) -> None:
    """Add the verb."""
    app.command(kill)


def kill(
    *,
    scope: ScopeFlag = (),
    mode: Mode = Mode.HALT,
    reason: str | None = None,
    timeout: Timeout = timedelta(seconds=10),
    key: KeyFlag = None,
    json: Json = False,
    flags: SettingsFlags = NO_FLAGS,
) -> int:
    """Stop what a scope covers, at once: `hitl kill --scope campaign:cmp-7`. It holds until two people release it.

    Exit 0 when it is EFFECTIVE, 3 when it is engaged but that is not proved in time, 4 when it is not engaged, 5 when
    it is refused.

    Parameters
    ----------
    scope
        kind:value, once for each: campaign, account, tenant, agent, agent-version, type, destination; global:* for
        everything. The same kind twice means either, different kinds mean both.
    mode
        HALT: nothing runs, whoever approved it. REVIEW_ALL: the machine approves nothing. REDUCE_ONLY: only what lowers
        a bid or budget, or pauses.
    reason
        Why; it can be left out.
    timeout
        How long to wait for the proof that it is EFFECTIVE, such as 10s. It is engaged all the same.
    json
        One object on stdout: {state, epoch, at, scope, mode, reason, effective_ms, waiting, contained, covered, notes}.
    """
    order = Order(scopes.checked(scope), mode, _reason(reason), timeout.total_seconds())
    settings = flags.load()
    killing = Killing(order, settings, signing_key(settings, key), Telling(json))
    try:
        told = reading(killing.run())
    except UnknownOutcomeError as error:
        raise UnknownOutcomeError(
            f"{error}\nWhether it is engaged is NOT known. Say it again, which does no harm, or {_otherwise(settings)}"
        ) from None
    except UnreachableError as error:
        raise UnreachableError(f"{error}\nNOTHING is engaged by this. Instead, {_otherwise(settings)}") from None
    except RefusedError as error:
        raise RefusedError(
            f"{error}\nNOTHING is engaged by this. With another key, or {_otherwise(settings)}"
        ) from None
    if json and told.epoch is not None:
        emit(_row(told, order))
    return told.code


def _reason(reason: str | None) -> str | None:
    if reason is not None and len(reason) > REASON_LENGTH_MAX:
        raise UsageError(f"--reason has {len(reason)} characters, at most {REASON_LENGTH_MAX}; say it shorter")
    return reason


def _otherwise(settings: Settings) -> str:
    return (
        f"stop everything another way: stop the control roles, or touch {settings.state_dir / 'HALT'} on each host; "
        "everything stops within 2 s"
    )


@dataclass(frozen=True)
class Order:
    """What was typed."""

    scope: tuple[str, ...]
    mode: Mode
    reason: str | None = None
    timeout_s: float = 10.0


@dataclass
class Told:
    """What came of it. `epoch` None: it is not engaged, or nobody can tell."""

    code: int = NOT_IN_TIME
    epoch: int | None = None
    at_ms: int = 0
    standing: Standing = APPENDED
    covered: Coverage | None = None
    notes: tuple[str, ...] = ()


class Killing:
    """One engagement, from the append to the proof."""

    def __init__(self, order: Order, settings: Settings, signer: SigningKey, telling: Telling) -> None:
        self.order, self.settings, self.signer, self.telling = order, settings, signer, telling
        self.told = Told()
        self._client, self._topics = kafka_client(settings), topic_set(settings)
        engage = partial(Engage, scope=order.scope, mode=order.mode, reason=order.reason, source="person")
        self._once = Once(signer, engage)
        self._said: tuple[str, ...] = ()
        self._silence_said = False

    async def run(self) -> Told:
        """Append, read back, and wait for the proof.

        Raises as `append_once` does, and `RefusedError` where the command does not count.
        """
        told = self.told
        with Presses.heeded(self.telling) as presses:
            try:
                appended = await append_once(self._client, self._topics, self._once, self._doubt)
                told.epoch, told.at_ms = appended.epoch, appended.at_ms
                self._say_appended()
                await self._follow(presses)
            except asyncio.CancelledError:
                if not presses.left:
                    raise
                told.code = INTERRUPTED
                self.telling.line(f"Left. {NOT_KNOWN if told.epoch is None else KNOWN}", "bold red")
        return told

    async def _follow(self, presses: Presses) -> None:
        """Read the command back, then wait for the proof; meanwhile count what it covers."""
        order, told = self.order, self.told
        counting = asyncio.create_task(coverage(self._client, self._topics, order.scope, told.at_ms))
        try:
            async with AsyncExitStack() as stack:
                beats = await self._read_back(stack)
                if beats is not None:
                    await self._watch(beats, presses, counting)
            if not presses.count:
                await self._say_coverage(counting)
            self._conclude(presses)
        finally:
            counting.cancel()
            await asyncio.wait([counting])

    async def _read_back(self, stack: AsyncExitStack) -> Heartbeats | None:
        """Find out whether the command counts, and listen to control; None where it cannot be read back."""
        try:
            async with asyncio.timeout(READ_BACK_SECONDS_MAX):
                log = await self._folded()
                self._judge(log)
                return await stack.enter_async_context(
                    listening(self._client, self._topics, log.audience, lambda: log.control.keys)
                )
        except RefusedError:
            raise
        except (HitlError, TimeoutError) as error:
            self.telling.line(f"It is appended, but cannot be read back: {str(error) or 'no answer'}.", "bold red")
            return None

    async def _folded(self) -> FindingLog:
        if not self.settings.trust:
            raise UsageError("trust is not set, so nobody here can tell whose command counts; set HITL_TRUST")
        async with finding(self._client, self._topics, self.settings.trust, self._once) as reader:
            log = await reader.catch_up()
        assert isinstance(log, FindingLog)  # `finding` gives no other
        return log

    def _judge(self, log: FindingLog) -> None:
        """Take over where the command counts; raise RefusedError where it does not."""
        if not log.control.keys:
            raise UsageError("no record of control has the digest that trust names; compare HITL_TRUST (hitl keys)")
        place = log.verdict()
        if place is None:
            raise UnreachableError(f"control ends at {log.control.epoch}, before the command")
        if place.why is not None:
            raise RefusedError(f"appended at {place.epoch}, but refused: {WORDS[place.why]}")
        self.told.epoch, self.told.at_ms = place.epoch, place.at_ms

    async def _watch(self, beats: Heartbeats, presses: Presses, counting: asyncio.Task[Coverage]) -> None:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self.order.timeout_s
        while self.told.standing.state != "effective" and not presses.count and (left := deadline - loop.time()) > 0:
            self.hear(await beats.hear(min(HEAR_SECONDS, left)))
            if beats.silent_ms() >= SILENT_MS and not self._silence_said:
                self._silence_said = True
                for line in silence_lines(beats):
                    self.telling.line(line, "bold red")
            if counting.done():
                await self._say_coverage(counting)

    # --- what is said -------------------------------------------------------------------------------------------------

    def hear(self, came: tuple[Beat, ...]) -> None:
        """Take heartbeats, oldest first, and say what they change."""
        told, epoch = self.told, self.told.epoch or 0
        for beat in came:
            told.standing = standing(epoch, told.at_ms, beat)
            if told.standing.state == "effective":
                self.telling.line(f"EFFECTIVE({epoch}) after {told.standing.after_ms} ms.", "bold green")
                return
        waiting, contained = told.standing.waiting, told.standing.contained
        said = (*sorted(one.instance for one in waiting), *sorted(one.instance for one in contained))
        # What is said once is not said again only because a moment has passed.
        if said and said != self._said:
            for line in standing_lines(told.standing, epoch):
                self.telling.line(line, "yellow")
        self._said = said

    def _say_appended(self) -> None:
        order, told = self.order, self.told
        self.telling.line(
            f"APPENDED({told.epoch}) at {time_text(told.at_ms)}: {order.mode} for {escaped(' '.join(order.scope))}, by "
            f"{escaped(self.signer.holder)}.",
            "bold",
        )
        told.notes = scopes.notes(order.scope)
        for note in told.notes:
            self.telling.line(f"Note: {note}.", "yellow")

    async def _say_coverage(self, counting: asyncio.Task[Coverage]) -> None:
        if self.told.covered is not None:
            return
        try:
            self.told.covered = covered = await counting
        except HitlError as error:
            self.told.covered = Coverage(0, 0, True, {})
            self.telling.line(f"How many actions it covered lately cannot be read: {error}", "yellow")
            return
        for line, style in coverage_lines(covered):
            self.telling.line(line, style)

    def _conclude(self, presses: Presses) -> None:
        told = self.told
        if told.standing.state == "effective":
            told.code = DONE
            return
        told.code = INTERRUPTED if presses.count else NOT_IN_TIME
        why = "Left" if presses.count else f"Not EFFECTIVE within {self.order.timeout_s:g} s"
        self.telling.line(f"{why}. {KNOWN} `hitl switches --watch` follows it.", "bold yellow")
        for line in standing_lines(told.standing, told.epoch or 0):
            self.telling.line(line, "yellow")

    def _doubt(self, error: UnknownOutcomeError) -> None:
        self.telling.line(f"{error}", "bold red")
        self.telling.line("Looking into the log, and saying it once more under the same id.", "bold red")


def _row(told: Told, order: Order) -> dict[str, Any]:
    covered = told.covered
    return {
        "state": told.standing.state.upper(),
        "epoch": told.epoch,
        "at": time_text(told.at_ms),
        "scope": order.scope,
        "mode": order.mode.value,
        "reason": order.reason,
        "effective_ms": told.standing.after_ms,
        "waiting": [{"instance": one.instance, "since_s": one.since_s} for one in told.standing.waiting],
        "contained": [
            {"epoch": one.epoch, "instance": one.instance, "calls": one.calls} for one in told.standing.contained
        ],
        "covered": covered
        and {
            "actions": covered.actions,
            "at_least": covered.at_least,
            "read": covered.read,
            "nearest": covered.nearest,
        },
        "notes": told.notes,
    }
