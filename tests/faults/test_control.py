"""Faults against kill switches: what is cut off, asleep, forged or killed can neither emit nor loosen anything.

Numbers are those of the design of kill switches: a lease ends 2 s after the ack that it rests on, EFFECTIVE comes
within 2.5 s although a router sleeps. All times are the broker's, on this machine: a commit's is that of its marker.
"""

from __future__ import annotations

import asyncio
import base64
import json
import random
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import orjson
import pytest
from msgspec.structs import replace as changed

from faults.harness import (
    DECISIONS,
    Dose,
    Findings,
    Load,
    Process,
    Run,
    Site,
    all_records,
    explained,
    finished,
    judge,
    parked_left,
    passed_to,
    site,
    troubles,
)
from hitl_stream.core import control as core_control
from hitl_stream.core.commands import TYPES, Confirm, Engage, Heartbeat, Keys, ReleaseRequest
from hitl_stream.core.effective import LEASE_MS
from hitl_stream.core.events import Mode, Rejection
from hitl_stream.lane.admin import cluster_id
from hitl_stream.lane.commander import Appended, append, commanding
from hitl_stream.lane.commits import CommitTimes, commit_times
from hitl_stream.lane.control_reader import read_control
from hitl_stream.lane.heartbeats import listening
from hitl_stream.wire.control_log import ControlLog
from hitl_stream.wire.records import ACK, Ack, encode
from hitl_stream.wire.seal import SEAL_HEADER, TYPE_HEADER, create_key, sealer
from hitl_stream.wire.signing import (
    SigningKey,
    create_signing_key,
    key_entry,
    new_signing_key,
    read_signing_keys,
    sign,
)
from support.kafka import producing, within
from support.kafka import read as read_all
from support.proxy import proxied

pytestmark = [pytest.mark.kafka, pytest.mark.faults, pytest.mark.timeout(1_800)]

Report = Callable[[Run], None]
RATE = 200
PARTITIONS = 2
ENOUGH = 10_000_000
"""Actions of a load that ends when the test says so."""
SILENT_MS_MAX = LEASE_MS + 100
"""From a cut to the last commit: the lease, and a commit that was under way."""
EFFECTIVE_MS_MAX = 2_500
RESUME_MS_MAX = 15_000
FIRST_S_MAX = 15.0
"""The design says 5 s for a machine of its own."""
WAIT_S_MAX = 30.0
STILL_S = 1.0
"""Every batch of a pass is committed, and none takes so long."""
SECONDS_MAX = 1_700.0
RELEASE_MS = 400
SWITCHES = 10_000
EVERYTHING = ("global:*",)
CUTS = {"both ways": (True, True), "to the broker": (True, False), "from the broker": (False, True)}
"""Whether bytes to the broker vanish, and those from it."""


# --- 1: cuts ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", CUTS)
def test_a_router_cut_off_from_the_broker_falls_silent_and_resumes_by_itself(
    kafka: str, full: bool, seed: int, report: Report, way: str
):
    times, rng = 50 if full else 2, random.Random(seed)
    up, down = CUTS[way]

    async def scenario() -> None:
        async with proxied(kafka) as proxy, bench(kafka, seed, HITL_VIA_PORT=f"{proxy.target}:{proxy.port}") as load:
            here, cuts = load.site, []
            for _ in range(times):
                await asyncio.sleep(rng.uniform(1.0, 2.0))
                cut_ms = now_ms()
                proxy.cut(up=up, down=down)
                await asyncio.sleep(rng.uniform(3.0, 6.0))
                cuts.append((cut_ms, now_ms()))
                proxy.heal()
                await until(lambda: is_ready(here.routers[0]), "the router is ready again")
            found = await ended(load)
            commits = await commits_ms(here)
            last = max(last_before(commits, healed) - cut for cut, healed in cuts)
            first = max(first_after(commits, healed) - healed for _, healed in cuts)
            facts = {"cuts": times, "last commit after": f"{max(0, last)} ms", "resumed after": f"{first} ms"}
            report(Run(f"control: router cut off, {way}", word(full), seed, facts, found))
            assert last <= SILENT_MS_MAX
            assert first <= RESUME_MS_MAX
            assert proxy.forwarded > 0

    within(scenario(), SECONDS_MAX)


# --- 2: a sleeper -----------------------------------------------------------------------------------------------------


def test_a_router_that_sleeps_right_before_its_commit_cannot_commit_after_effective(
    kafka: str, full: bool, seed: int, report: Report, tmp_path: Path, release_soon: dict[str, str]
):
    lengths, file = (1, 5, 20, 40) if full else (1, 5), tmp_path / "sleep"

    async def scenario() -> None:
        async with bench(kafka, seed, HITL_SLEEP_IF=str(file), **release_soon) as load:
            here, waits, proved, halts = load.site, [], [], []
            router = here.routers[0]
            for length in lengths:
                await asyncio.sleep(1.0)
                file.touch()
                await until(router.asleep, "the router sleeps")
                halt, effective_ms = await engaged(here, EVERYTHING)
                proved.append((halt.epoch, effective_ms))
                waits.append(effective_ms - halt.at_ms)
                await asyncio.sleep(max(0.0, length - (now_ms() - halt.at_ms) / 1000))
                router.resume()
                await until(lambda: is_ready(router), "the router is ready again")
                fenced = (await router.metric("hitl_aborts_total", "why")).get("fenced", 0)
                halts.append((halt.epoch, (await released(here, halt.epoch)).epoch))
            found = await ended(load)
            late, covered, aborted = await offending(here, proved, halts)
            facts = {
                "sleeps": ", ".join(f"{length} s" for length in lengths),
                "EFFECTIVE after": ", ".join(f"{wait} ms" for wait in waits),
                "aborted execute records": aborted,
                "decided before, committed after EFFECTIVE": len(late),
            }
            report(Run("control: router asleep before its commit", word(full), seed, facts, found))
            assert late == []
            assert covered == []
            assert max(waits) <= EFFECTIVE_MS_MAX
            assert fenced >= len(lengths)
            assert aborted  # what slept had something to commit

    within(scenario(), SECONDS_MAX)


def test_while_a_sleepers_transaction_is_open_nobody_says_effective_even_if_the_fence_did_nothing(
    kafka: str, seed: int, tmp_path: Path
):
    """So the test above would find a fence that does nothing."""
    file = tmp_path / "sleep"

    async def scenario() -> None:
        async with bench(kafka, seed, HITL_SLEEP_IF=str(file), HITL_FENCES="no") as load:
            here = load.site
            await asyncio.sleep(1.0)
            file.touch()
            await until(here.routers[0].asleep, "the router sleeps")
            engaging = asyncio.create_task(engaged(here, EVERYTHING))
            await asyncio.sleep(EFFECTIVE_MS_MAX / 1000 + 1.5)
            here.routers[0].resume()
            halt, effective_ms = await engaging
            late, covered, _ = await offending(here, [(halt.epoch, effective_ms)], [(halt.epoch, ENOUGH)])
            assert effective_ms - halt.at_ms > EFFECTIVE_MS_MAX
            assert (late, covered) == ([], [])

    within(scenario(), SECONDS_MAX)


async def offending(
    here: Site, proved: list[tuple[int, int]], halts: list[tuple[int, int]]
) -> tuple[list[str], list[str], int]:
    """Return execute records decided before a HALT and committed after its EFFECTIVE, those decided under a HALT, and
    how many there are that were aborted."""
    late, covered, aborted = [], [], 0
    for n in range(here.settings.partitions):
        times = await commit_times(here.client, here.name("execute"), n, 0)
        aborted += sum(one.last - one.first + 1 for one in times.stretches if not one.committed)
        for record in await read_all(here.bootstrap, here.name("execute"), n):
            epoch, at_ms = orjson.loads(record.value)["epoch"], committed_ms(times, record.offset)
            place = f"{n}/{record.offset}, epoch {epoch}"
            late += [f"{place} after {k}" for k, effective_ms in proved if epoch < k and at_ms > effective_ms]
            covered += [place for k, end in halts if k <= epoch < end]
    return late, covered, aborted


def committed_ms(times: CommitTimes, offset: int) -> int:
    stretch = times.of(offset)
    assert stretch is not None
    assert stretch.committed
    assert stretch.at_ms is not None
    return stretch.at_ms


# --- 3: many switches -------------------------------------------------------------------------------------------------


def test_a_start_with_10_000_switches_executes_nothing_before_the_last_of_them_is_folded(
    kafka: str, full: bool, seed: int, report: Report
):
    actions = 20_000 if full else 1_000

    async def scenario() -> None:
        async with site(kafka, 0, partitions=PARTITIONS) as here:
            load = Load(here, Dose(actions, 10 * actions, repeat_s=(0.05, 0.2)), seed)
            with explained(here):
                last = await engaged_many(here, SWITCHES)
                await load.run()
                router = here.start(0)
                await finished(here)
                found = await judge(here, load.sent)
                first_s = min(await commits_ms(here, "execute")) / 1000 - router.started
                facts = {"switches": SWITCHES, "start to first execute": f"{first_s:.1f} s"}
                report(Run("control: start with many switches", word(full), seed, facts, found))
                assert found.ok, found.text()
                assert troubles(here) == []
                assert set(found.parked) == ids_of(load, "cmp-1") != set()
                epochs = await execute_epochs(here)
                assert epochs
                assert min(epochs) >= last
                assert first_s <= FIRST_S_MAX

    within(scenario(), SECONDS_MAX)


async def engaged_many(here: Site, count: int) -> int:
    """Append so many HALTs of which the last alone covers something, campaign cmp-1; return its epoch."""
    key, audience = keys_of(here)["ana"], await cluster_id(here.client)
    async with producing(here.bootstrap, acks="all", linger_ms=20) as producer:
        sent: list[Any] = []
        for n in range(count):
            scope = "campaign:cmp-1" if n == count - 1 else f"campaign:nowhere-{n}"
            command = Engage(scope=(scope,), mode=Mode.HALT, **claims(key, audience, jti=f"many-{n}"))
            sent.append(await producer.send(here.name("control"), sign(key, command), partition=0))
            if n % 200 == 0:
                await asyncio.sleep(0)
        offsets = [one.offset for one in await asyncio.gather(*sent)]
    assert len((await log_of(here)).control.switches.engaged) == count
    return int(max(offsets))


async def execute_epochs(here: Site) -> list[int]:
    return [orjson.loads(record.value)["epoch"] async for record in all_records(here, "execute")]


# --- 4: an engagement stays -------------------------------------------------------------------------------------------


def test_neither_a_forged_record_a_null_nor_a_rotated_key_lifts_a_switch(
    kafka: str, full: bool, seed: int, report: Report
):
    actions = 20_000 if full else 400

    async def scenario() -> None:
        async with site(kafka, 1, partitions=PARTITIONS) as here:
            with explained(here):
                by_ana, _ = await engaged(here, ("campaign:cmp-1",))
                by_ben, _ = await engaged(here, ("campaign:cmp-2",), "ben")
                await overwritten(here, by_ana, by_ben)
                await rotated(here, "ben")
                for process in (here.routers[0], here.controls[0]):
                    process.kill()
                here.control()
                here.start(0)
                await here.opened()
                load = Load(here, Dose(actions, RATE), seed)
                await load.run()
                await finished(here)
                found = await judge(here, load.sent)
                log = await log_of(here)
                facts = {"actions": actions, "refused": dict(log.rejected)}
                report(Run("control: an engagement overwritten, its key rotated", word(full), seed, facts, found))
                assert found.ok, found.text()
                assert troubles(here) == []
                assert set(log.control.switches.engaged) == {by_ana.epoch, by_ben.epoch}
                assert set(found.parked) == ids_of(load, "cmp-1", "cmp-2") != set()
                assert found.ends["execute"]

    within(scenario(), SECONDS_MAX)


async def overwritten(here: Site, *engagements: Appended) -> None:
    """Append a forgery and a null under the Kafka key of each."""
    mallory = new_signing_key("mallory-1", "mallory")
    async with producing(here.bootstrap, acks="all") as producer:
        for one in engagements:
            forged = sign(mallory, changed(one.command, kid="mallory-1", iss="mallory", mode=Mode.REVIEW_ALL))
            for value in (forged, None):
                await producer.send_and_wait(here.name("control"), value, one.command.jti.encode(), partition=0)


async def rotated(here: Site, holder: str) -> None:
    """End a holder's key and see that it signs nothing any more."""
    keys = keys_of(here)
    old, new = keys[holder], create_signing_key(here.settings.keys_dir, f"{holder}-2", holder)
    now = datetime.now(UTC)
    entries = (
        key_entry(old, TYPES, now - timedelta(minutes=5), now + timedelta(seconds=3)),
        key_entry(new, TYPES, now - timedelta(minutes=5), now + timedelta(days=1)),
    )
    asked = await append(here.client, here.topics, keys["ana"], partial(Keys, keys=entries))
    await append(here.client, here.topics, old, partial(Confirm, of=asked.epoch))
    await asyncio.sleep(3.2)
    after = await append(here.client, here.topics, old, partial(Engage, scope=("agent:nobody",), mode=Mode.HALT))
    assert (await log_of(here)).rejection_at(after.epoch) is Rejection.KEY_TIME


# --- 5: forgeries -----------------------------------------------------------------------------------------------------


def test_no_forged_expired_replayed_or_foreign_record_counts_and_each_is_counted(
    kafka: str, full: bool, seed: int, report: Report
):
    amount = 10_000 if full else 500

    async def scenario() -> None:
        async with bench(kafka, seed) as load:
            here = load.site
            true, _ = await engaged(here, ("campaign:nowhere",))
            asked = await append(
                here.client,
                here.topics,
                keys_of(here)["ana"],
                partial(ReleaseRequest, epochs=(true.epoch,), reason="x"),
            )
            before = await log_of(here)
            router, control = here.routers[0], here.controls[0]
            counted = {process: await rejections(process) for process in (router, control)}
            forger = Forger(here, true, asked, before.audience)
            commands, beats, acks = await forger.write(amount)
            await until_counted(router, counted[router], commands + beats)
            await until_counted(control, counted[control], commands + acks)
            after, leases = await log_of(here), await instances_of(here)
            found = await ended(load)
            facts = {"records": amount, "refused": dict(sorted((commands + beats + acks).items()))}
            report(Run("control: forgeries", word(full), seed, facts, found))
            assert after.control.decided_at == before.control.decided_at == true.epoch
            assert set(after.control.switches.engaged) == {true.epoch}
            assert after.control.epoch == before.control.epoch + commands.total()
            assert not any("mallory" in name for name in leases)
            assert leases  # the router's own
            assert (commands + beats + acks).total() == amount

    within(scenario(), SECONDS_MAX)


class Forger:
    """Writes records that must count for nothing: commands, heartbeats, acks."""

    def __init__(self, here: Site, true: Appended, asked: Appended, audience: str) -> None:
        self.here, self.true, self.asked, self.audience = here, true, asked, audience
        self.keys = keys_of(here)
        self.mallory = new_signing_key("mallory-1", "mallory")
        self.as_ana = SigningKey("ana-1", "ana", "person", self.mallory.private)
        self.as_control = SigningKey("control-1", "control", "service", self.mallory.private)
        self.n = 0

    async def write(self, amount: int) -> tuple[Counter[str], Counter[str], Counter[str]]:
        """Write so many in turn; return how many of which reason on `control`, `control.heartbeat`, `control.acks`."""
        told: tuple[Counter[str], Counter[str], Counter[str]] = (Counter(), Counter(), Counter())
        topics = [self.here.name(name) for name in ("control", "control.heartbeat", "control.acks")]
        async with producing(self.here.bootstrap, acks="all", linger_ms=5) as producer:
            old_ack = (await read_all(self.here.bootstrap, topics[2]))[-1]
            sent = []
            while self.n < amount:
                kind, why, key, value, headers = self._next(old_ack)
                told[kind][why.value] += 1
                sent.append(await producer.send(topics[kind], value, key, partition=0, headers=headers))
                if self.n % 50 == 0:
                    await asyncio.sleep(0.02)  # the load goes on
            await asyncio.gather(*sent)
        return told

    def _next(self, old_ack: Any) -> tuple[int, Rejection, bytes, bytes | None, list[tuple[str, bytes]]]:
        makers = [self._command] * 10 + [self._beat] * 3 + [self._ack, partial(self._old_ack, old_ack)]
        made = makers[self.n % len(makers)]()
        self.n += 1
        return made

    def _command(self) -> tuple[int, Rejection, bytes, bytes | None, list[tuple[str, bytes]]]:
        ana, host, jti = self.keys["ana"], self.keys["host"], f"forged-{self.n}"
        release = {"epochs": (self.true.epoch,), "reason": "forged"}
        halt: dict[str, Any] = {"scope": EVERYTHING, "mode": Mode.HALT}

        def common(key: SigningKey, **others: Any) -> dict[str, Any]:
            return claims(key, self.audience, jti=jti, **others)

        hour_ago = int(time.time()) - 3_600
        why, value = [
            (Rejection.MALFORMED, None),
            (Rejection.ALGORITHM, unsigned(Engage(**halt, **common(ana)))),
            (Rejection.UNKNOWN_KEY, sign(self.mallory, Engage(**halt, **common(self.mallory)))),
            (Rejection.SIGNATURE, sign(self.as_ana, ReleaseRequest(**release, **common(ana)))),
            (Rejection.EXPIRED, sign(ana, Engage(**halt, **common(ana, iat=hour_ago, exp=hour_ago + 900)))),
            (Rejection.AUDIENCE, sign(ana, Engage(**halt, **common(ana, aud="elsewhere")))),
            (Rejection.REPLAYED, self.true.value),
            (Rejection.SAME_HOLDER, sign(ana, Confirm(of=self.asked.epoch, **common(ana)))),
            (Rejection.TYPE, sign(host, ReleaseRequest(**release, **common(host)))),
            (Rejection.UNKNOWN, sign(ana, ReleaseRequest(epochs=(0,), reason="forged", **common(ana)))),
        ][self.n % 15]
        return 0, why, self.true.command.jti.encode(), value, []

    def _beat(self) -> tuple[int, Rejection, bytes, bytes | None, list[tuple[str, bytes]]]:
        """A heartbeat that would give everybody a lease."""
        why, key = [
            (Rejection.UNKNOWN_KEY, self.mallory),
            (Rejection.SIGNATURE, self.as_control),
            (Rejection.TYPE, self.keys["ana"]),
        ][self.n % 3]
        beat = Heartbeat(
            control="mallory", seq=self.n, epoch=0, digest="0" * 64, acks={"mallory/router/9": 1}, effective=-1,
            **claims(key, self.audience, jti=f"beat-{self.n}"),
        )  # fmt: skip
        return 1, why, b"mallory", sign(key, beat), []

    def _ack(self) -> tuple[int, Rejection, bytes, bytes | None, list[tuple[str, bytes]]]:
        value = encode(Ack(n=2**62, instance="mallory/router/9", role="router", version="1"))
        key = create_key(self.here.directory / "others", "seal-router", "r1")
        seal = sealer(key, self.here.name("control.acks"), ACK)(value)
        return 2, Rejection.SEAL, b"mallory/router/9", value, [(TYPE_HEADER, ACK.encode()), (SEAL_HEADER, seal)]

    def _old_ack(self, record: Any) -> tuple[int, Rejection, bytes, bytes | None, list[tuple[str, bytes]]]:
        return 2, Rejection.REPLAYED, record.key, record.value, list(record.headers)


def unsigned(command: Engage) -> bytes:
    """Return a command that says of itself that it needs no signature."""
    header = orjson.dumps({"alg": "none", "kid": command.kid})
    return b".".join([base64.urlsafe_b64encode(part).rstrip(b"=") for part in (header, encode(command))] + [b""])


async def rejections(process: Process) -> Counter[str]:
    found = await process.metric("hitl_control_rejected_total", "reason")
    return Counter({reason: int(count) for reason, count in found.items()})


async def until_counted(process: Process, before: Counter[str], more: Counter[str]) -> None:
    """Wait until a process has counted these, and see that it does not count others."""

    async def there() -> bool:
        return (await rejections(process)).total() >= (before + more).total()

    await until(there, f"{process.log.name} has counted {more}")
    assert await rejections(process) == before + more


async def instances_of(here: Site) -> set[str]:
    """Return whose acks the true heartbeats have repeated."""
    found: set[str] = set()
    async with listening(here.client, here.topics, *await trusted(here)) as beats:
        for record in await read_all(here.bootstrap, here.name("control.heartbeat")):
            beat = beats.take(record)
            found |= set() if beat is None else set(beat.heartbeat.acks)
    return found


# --- 6: control itself ------------------------------------------------------------------------------------------------


def test_without_control_leases_run_out_and_with_it_they_come_back(kafka: str, full: bool, seed: int, report: Report):
    times = 20 if full else 2

    async def scenario() -> None:
        async with bench(kafka, seed) as load:
            here, silences = load.site, []
            router = here.routers[0]
            for _ in range(times):
                await asyncio.sleep(1.5)
                killed_ms = now_ms()
                here.controls[-1].kill()
                await asyncio.sleep(3.5)
                status, body = await router.get("/readyz")
                assert status == 503
                assert "the lease of control ran out" in json.loads(body)["checks"]["control"]
                silences.append((killed_ms, now_ms()))
                here.control()
                await until(lambda: is_ready(router), "the router is ready again")
            found = await ended(load)
            commits = await commits_ms(here)
            last = max(last_before(commits, again) - killed for killed, again in silences)
            first = max(first_after(commits, again) - again for _, again in silences)
            facts = {"kills": times, "last commit after": f"{last} ms", "resumed after a start in": f"{first} ms"}
            report(Run("control: killed", word(full), seed, facts, found))
            assert last <= SILENT_MS_MAX
            assert first <= RESUME_MS_MAX

    within(scenario(), SECONDS_MAX)


def test_a_router_that_ignores_its_lease_would_be_found_out(kafka: str, seed: int):
    async def scenario() -> None:
        async with bench(kafka, seed, HITL_PLANT="no_lease") as load:
            await asyncio.sleep(1.0)
            killed_ms = now_ms()
            load.site.controls[-1].kill()
            await asyncio.sleep(4.0)
            assert last_before(await commits_ms(load.site), now_ms()) - killed_ms > SILENT_MS_MAX

    within(scenario(), SECONDS_MAX)


def test_of_two_controls_one_may_die_and_nobody_notices(kafka: str, full: bool, seed: int, report: Report):
    times = 20 if full else 2

    async def scenario() -> None:
        async with bench(kafka, seed) as load:
            here = load.site
            spare = here.control(1)
            await until(lambda: is_ready(spare), "the second control is ready")
            began_ms, watching = now_ms(), asyncio.create_task(unready(here.routers[0]))
            for n in range(times):
                await asyncio.sleep(1.0)
                here.controls[-2].kill()
                await asyncio.sleep(3.0)
                more = here.control(n % 2)
                await until(partial(is_ready, more), "the new control is ready")
            until_ms = now_ms()
            watching.cancel()
            halt, effective_ms = await engaged(here, ("campaign:nowhere",))
            found = await ended(load)
            commits = [at for at in await commits_ms(here) if began_ms <= at <= until_ms]
            gap = max(after - before for before, after in pairwise([began_ms, *commits, until_ms]))
            facts = {"kills": times, "longest silence": f"{gap} ms", "EFFECTIVE": f"{effective_ms - halt.at_ms} ms"}
            report(Run("control: one of two killed", word(full), seed, facts, found))
            assert watching.cancelled() or not watching.done() or watching.exception() is None
            assert gap < LEASE_MS

    within(scenario(), SECONDS_MAX)


async def unready(router: Process) -> None:
    """Fail as soon as it is not ready."""
    while True:
        status, body = await router.get("/readyz")
        assert status == 200, body
        await asyncio.sleep(0.2)


# --- 7: parked --------------------------------------------------------------------------------------------------------


def test_a_router_killed_in_the_middle_of_a_pass_leaves_every_parked_action_one_answer_in_order(
    kafka: str, full: bool, seed: int, report: Report, tmp_path: Path, release_soon: dict[str, str]
):
    """Campaign cmp-1 is released, cmp-2 never."""
    rounds, file = 10 if full else 1, tmp_path / "die"
    small = {"HITL_DIE_IN_PASS": str(file), "HITL_BATCH_RECORDS_MAX": "50"}

    async def scenario() -> None:
        async with bench(kafka, seed, **release_soon, **small) as load:
            here, left = load.site, 0
            await engaged(here, ("campaign:cmp-2",))
            for _ in range(rounds):
                halt, _ = await engaged(here, ("campaign:cmp-1",))
                await asyncio.sleep(4.0)
                router = here.routers[0]
                router.killed = True
                file.touch()
                await released(here, halt.epoch)
                await until(partial(has_ended, router), "the router is dead")
                left = await parked_left(here, "cmp-1")
                assert left  # it died before the end of the pass
                here.start(0)
                await here.opened()
                await asyncio.sleep(1.0)
            # A pass parks what is still covered once more, fifty at a time here: with the dose it grows.
            found = await ended(load, "cmp-1", WAIT_S_MAX + 12.0 * rounds)
            facts = {"kills in a pass": rounds, "then parked": left, "copies consumed": found.taken}
            report(Run("control: killed in a pass", word(full), seed, facts, found))
            assert {load.sent[name].entity.rpartition("/")[2] for name in found.parked} == {"cmp-2"}
            assert set(found.parked) <= ids_of(load, "cmp-2")
            assert found.taken

    within(scenario(), SECONDS_MAX)


# --- what they share --------------------------------------------------------------------------------------------------


@pytest.fixture
def release_soon(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """What makes a minute short: here, and in every process that is given this environment."""
    monkeypatch.setattr(core_control, "RELEASE_MS_MIN", RELEASE_MS)
    return {"HITL_RELEASE_MS_MIN": str(RELEASE_MS)}


@asynccontextmanager
async def bench(kafka: str, seed: int, **environment: str) -> AsyncIterator[Load]:
    """Give a load that goes on, at one router."""
    async with site(kafka, 1, partitions=PARTITIONS, **environment) as here:
        load = Load(here, Dose(ENOUGH, RATE, repeat_s=(0.05, 2.0)), seed)
        running = asyncio.create_task(load.run())
        try:
            with explained(here):
                load.running = running
                yield load
        finally:
            running.cancel()
            await asyncio.wait([running])


async def ended(load: Load, campaign: str = "", drain_s_max: float = WAIT_S_MAX) -> Findings:
    """End the load; return what is found once all is answered and nothing of a campaign, or at all, is parked."""
    load.dose = replace(load.dose, actions=len(load.sent))
    assert load.running is not None
    await load.running
    await finished(load.site)

    async def drained() -> bool:
        before = await passed_to(load.site)
        await asyncio.sleep(STILL_S)
        return before == await passed_to(load.site) and not await parked_left(load.site, campaign)

    await until(drained, f"nothing of {campaign or 'anything'} is parked, and no pass is under way", drain_s_max)
    found = await judge(load.site, load.sent)
    assert found.ok, found.text()
    assert troubles(load.site) == []
    return found


async def engaged(here: Site, scope: tuple[str, ...], by: str = "ana") -> tuple[Appended, int]:
    """Engage a HALT; return it and when a heartbeat said that it is EFFECTIVE."""
    make = partial(Engage, scope=scope, mode=Mode.HALT, reason="fault")
    async with (
        commanding(here.client, here.topics, keys_of(here)[by]) as commander,
        listening(here.client, here.topics, *await trusted(here)) as beats,
    ):
        appended = await commander.append(make)
        deadline = time.monotonic() + WAIT_S_MAX
        while time.monotonic() < deadline:
            for beat in await beats.hear(0.2):
                if beat.heartbeat.effective >= appended.epoch:
                    return appended, beat.at_ms
    raise AssertionError(f"the HALT at {appended.epoch} is not EFFECTIVE after {WAIT_S_MAX:g} s")


async def released(here: Site, epoch: int) -> Appended:
    """Release a switch in two steps."""
    keys = keys_of(here)
    asked = await append(
        here.client, here.topics, keys["ana"], partial(ReleaseRequest, epochs=(epoch,), reason="it is over")
    )
    await asyncio.sleep(RELEASE_MS / 1000 + 0.1)
    done = await append(here.client, here.topics, keys["ben"], partial(Confirm, of=asked.epoch))
    assert epoch not in (await log_of(here)).control.switches.engaged
    return done


def keys_of(here: Site) -> dict[str, SigningKey]:
    """Return the newest key of each holder."""
    return {key.holder: key for key in read_signing_keys(here.settings.keys_dir).values()}


def claims(key: SigningKey, audience: str, **others: Any) -> dict[str, Any]:
    now = int(time.time())
    return {"aud": audience, "kid": key.key_id, "iss": key.holder, "iat": now, "exp": now + 900} | others


async def log_of(here: Site) -> ControlLog:
    return await read_control(here.client, here.topics, here.settings.trust, await cluster_id(here.client))


async def trusted(here: Site) -> tuple[str, Callable[[], Any]]:
    """Return the cluster's id, and the keys that `control` lists."""
    log = await log_of(here)
    return log.audience, lambda: log.control.keys


def ids_of(load: Load, *campaigns: str) -> set[str]:
    return {name for name, sent in load.sent.items() if sent.entity.rpartition("/")[2] in campaigns}


async def commits_ms(here: Site, *topics: str) -> list[int]:
    """Return when the router's transactions were committed."""
    found: list[int] = []
    for topic in topics or (*DECISIONS, "closed"):
        for n in range(here.settings.partitions):
            times = await commit_times(here.client, here.name(topic), n, 0)
            found += [one.at_ms for one in times.stretches if one.committed and one.at_ms is not None]
    return sorted(found)


def last_before(commits: list[int], at_ms: int) -> int:
    return max((at for at in commits if at <= at_ms), default=0)  # none yet: a busy machine starts slowly


def first_after(commits: list[int], at_ms: int) -> int:
    return min(at for at in commits if at > at_ms)


async def is_ready(process: Process) -> bool:
    return (await process.get("/readyz"))[0] == 200


def has_ended(process: Process) -> bool:
    return process.process.poll() is not None


async def until(condition: Callable[[], bool | Awaitable[bool]], what: str, seconds_max: float = WAIT_S_MAX) -> None:
    """Wait until it is so."""
    deadline = time.monotonic() + seconds_max
    while True:
        found = condition()
        if found if isinstance(found, bool) else await found:
            return
        assert time.monotonic() < deadline, f"not within {seconds_max:g} s: {what}"
        await asyncio.sleep(0.05)


def now_ms() -> int:
    return time.time_ns() // 1_000_000


def word(full: bool) -> str:
    return "full" if full else "short"
