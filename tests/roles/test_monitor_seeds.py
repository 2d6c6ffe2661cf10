"""What canaries are made from, who gets which, and that nothing around one betrays it."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

import pytest
from msgspec import Raw
from msgspec.structs import replace

from hitl_stream.core.commands import DAY_MS
from hitl_stream.core.policy.model import Policy
from hitl_stream.core.review import TIER_MAX
from hitl_stream.roles import monitor_seeds
from hitl_stream.roles.monitor_seeds import (
    CANDIDATES_MAX,
    HOUR_MS,
    SEEN_BY_MAX,
    WAITING_MS_MAX,
    At,
    Drawn,
    Seeded,
    Seeds,
    second_of,
)
from hitl_stream.wire.codec import Decoded, decode_bytes
from hitl_stream.wire.decided import Decided, read_decided
from hitl_stream.wire.desk_records import HumanDecision
from hitl_stream.wire.records import DECISION, First, Held, head_of
from hitl_stream.wire.seal import SEAL_HEADER, TYPE_HEADER, SealKey, sealer
from hitl_stream.wire.watched import asked_in, seeded_value
from support.make import make_policy
from support.watching import START_MS, asking, judgement

NAMES, SEAL = SealKey("p1", b"\x06" * 32), SealKey("m1", b"\x05" * 32)
NOW_MS = START_MS + 2 * DAY_MS
TOPIC = "hitl.review.seeded"
ORIGIN = "hitl.observations/0/7"


def policy(**parts: Any) -> Policy:
    return make_policy(**parts)


def seeds_of(*found: HumanDecision, partitions: int = 1) -> Seeds:
    seeds = Seeds(NAMES, partitions)
    for n, one in enumerate(found):
        seeds.judged(one, At(0, n), 0)
    return seeds


def drawn(person: str = "ana", **parts: Any) -> Drawn:
    fields = {
        "queue": QUEUE, "origin": ORIGIN, "partition": 0, "at_ms": NOW_MS, "tier_max": TIER_MAX, "age_ms": DAY_MS
    }  # fmt: skip
    return Drawn(person, **fields | parts)


QUEUE = "trading"


def canary(seeds: Seeds, one: Drawn | None = None, rules: Policy | None = None) -> Seeded | None:
    return seeds.canary(one or drawn(), rules or policy(), "e" * 64, 815)


def made(*found: HumanDecision, **parts: Any) -> Seeded:
    one = canary(seeds_of(*found), drawn(**parts))
    assert one is not None
    return one


# --- whom it may go to ------------------------------------------------------------------------------------------------


def test_a_canary_is_made_from_what_others_approved_a_day_ago():
    assert made(judgement(asking())).held.for_ == "ana"


@pytest.mark.parametrize(
    "found",
    [
        [judgement(asking(), "ana")],
        [judgement(asking()), judgement(asking(), "ana", "reject", effect="conflict")],
        [judgement(asking()), judgement(asking(), "ana", "skip")],
        [judgement(asking(), "ana", "reject", purpose="second"), judgement(asking())],
        [judgement(asking(), "ben", "reject")],
        [judgement(asking(), "ben", "approve", effect="refused")],
        [judgement(asking(), purpose="audit")],
        [judgement(asking(at_ms=NOW_MS - DAY_MS // 2))],
        [judgement(replace(asking(), by="ana"))],
        [judgement(replace(asking(), supersedes="act-0"))],
        [judgement(asking(), queue="content")],
        [judgement(asking(), asked=None)],
        [judgement(asking(rationale="x" * 20_000))],
    ],
    ids=["their own", "seen too late", "skipped", "seen before", "rejected", "refused", "an audit", "too young",
         "asked by a person", "a person's change", "escalated", "unknown", "too long"],
)  # fmt: skip
def test_there_is_none_from(found: list[HumanDecision]):
    assert canary(seeds_of(*found)) is None


def test_a_demo_has_no_day_to_wait():
    seeds = seeds_of(judgement(asking(at_ms=NOW_MS - 60_000)))

    assert canary(seeds) is None
    assert canary(seeds, drawn(age_ms=30_000)) is not None


def test_what_was_routed_before_anybody_read_becomes_none():
    seeds = Seeds(NAMES, 1)
    seeds.judged(judgement(asking()), At(0, 0), START_MS + 1)

    assert canary(seeds) is None


def test_of_what_more_people_saw_than_are_remembered_there_is_none():
    found = [judgement(asking(), f"person-{n}") for n in range(SEEN_BY_MAX + 1)]

    assert canary(seeds_of(*found[:-1])) is not None
    assert canary(seeds_of(*found)) is None


def test_of_what_nobody_remembers_who_saw_it_there_is_none(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(monitor_seeds, "SEEN_MAX", 2)
    skipped = [judgement(asking(n), verdict="skip") for n in (2, 3)]

    assert canary(seeds_of(judgement(asking(1)), *skipped)) is None


@pytest.mark.parametrize(
    "rules",
    [
        {"queues": {QUEUE: {"external": True}}},
        {"classes": {"bid.adjust": {"canaries": False}}},
        {"agents": {"bidder-7": {"owner": "ana"}}},
        {"agents": {"bidder-*": {"owner": "ana"}}},
    ],
    ids=["external", "class without", "owner", "owner of all such"],
)
def test_the_policy_wants_none(rules: dict[str, Any]):
    assert canary(seeds_of(judgement(asking())), rules=policy(**rules)) is None


def test_who_is_at_level_three_gets_none_of_the_highest_tier():
    seeds, rules = seeds_of(judgement(asking())), policy(classes={"bid.adjust": {"tier": 3}})

    assert canary(seeds, drawn(tier_max=TIER_MAX - 1), rules) is None
    assert canary(seeds, drawn(tier_max=TIER_MAX), rules) is not None


def test_a_person_has_one_canary_at_a_time():
    seeds = seeds_of(*[judgement(asking(n)) for n in range(3)])
    one = canary(seeds)
    assert one is not None
    assert seeds.may_get("ana", "elsewhere", NOW_MS)
    seeds.seeded(one.held)

    assert not seeds.may_get("ana", "elsewhere", NOW_MS)
    assert seeds.may_get("ben", "elsewhere", NOW_MS)
    assert seeds.may_get("ana", "elsewhere", NOW_MS + WAITING_MS_MAX), "nobody judges it any more"
    for word, effect in (("skip", "applied"), ("approve", "refused")):
        seeds.judged(judgement(one.held, "ana", word, effect=effect, asked="x"), At(0, 9), 0)
        assert not seeds.may_get("ana", "elsewhere", NOW_MS), word
    seeds.judged(judgement(one.held, "ana", "reject"), At(0, 9), 0)
    assert seeds.may_get("ana", "elsewhere", NOW_MS)
    assert not seeds.may_get("ana", ORIGIN, NOW_MS), "one judgement brings one canary"


def test_nothing_becomes_a_canary_twice():
    seeds = seeds_of(judgement(asking()))
    one = canary(seeds)
    assert one is not None
    seeds.seeded(one.held)

    assert canary(seeds, drawn("cleo", origin="hitl.observations/0/8")) is None
    late = Seeds(NAMES, 1)
    late.seeded(one.held)
    late.judged(judgement(asking()), At(0, 0), 0)
    assert canary(late, drawn("cleo")) is None, "whichever was read first"


def test_of_two_workers_that_plant_the_same_the_log_says_whose_it_is():
    seeds = seeds_of(judgement(asking()))
    one, other = canary(seeds), canary(seeds, drawn("cleo", origin="hitl.observations/1/8", partition=1))
    assert one is not None
    assert other is not None
    assert one.held.action_id == other.held.action_id
    seeds.seeded(other.held)
    assert not seeds.may_get("cleo", "elsewhere", NOW_MS)
    first = Seeds(NAMES, 1)
    for held in (one.held, other.held):
        first.seeded(held)

    assert not first.may_get("ana", "elsewhere", NOW_MS)
    assert first.may_get("cleo", "elsewhere", NOW_MS), "the desk opens one item for both"


# --- what it is -------------------------------------------------------------------------------------------------------


def record(one: Seeded) -> Decided:
    """Return it as the desk reads it."""
    value = seeded_value(one.held, one.decoded.raw)
    seal = sealer(SEAL, TOPIC, DECISION)(head_of(value))
    headers = [(TYPE_HEADER, DECISION.encode()), (SEAL_HEADER, seal)]
    found = read_decided(TOPIC, value, headers, {SEAL.key_id: SEAL})
    assert isinstance(found, Decided), found
    return found


def test_the_desk_reads_what_is_planted_and_its_action_is_the_last_member():
    one = made(judgement(asking()))
    found = record(one)

    assert replace(found.decision, action=one.held.action) == one.held
    assert found.decoded == one.decoded
    assert found.decision.planted in ("limit", "factual", "tone", "compliance", "other")


@pytest.mark.behaviour("A9")
def test_all_that_stands_around_a_canary_is_what_stood_around_its_source_but_moved_to_now():
    source = asking()
    held = made(judgement(source)).held
    moved = NOW_MS - START_MS
    same = ("tenant", "type", "level", "agent", "entity", "outcome", "reasons", "score", "audit", "attempt", "by",
            "supersedes", "first", "parked")  # fmt: skip

    assert {name: getattr(held, name) for name in same} == {name: getattr(source, name) for name in same}
    assert (held.policy, held.epoch) == ("e" * 64, 815), "what a router would say now"
    assert held.trace != source.trace
    assert len(held.trace or "") == 32
    for before, after in ((source.moment, held.moment), (source.execute_by, held.execute_by),
                          (source.approvals[0].decide_by, held.approvals[0].decide_by)):  # fmt: skip
        assert monitor_seeds.ms_of(after or "") - monitor_seeds.ms_of(before or "") == moved
    assert held.moment == monitor_seeds.time_text(NOW_MS)


def test_one_thing_is_changed_and_the_source_cannot_be_told_from_what_is_written():
    source = asking()
    one = made(judgement(source))
    before, after = json.loads(bytes(source.action)), json.loads(one.decoded.raw)
    changed = {name for name in before if before[name] != after[name]}
    value = seeded_value(one.held, one.decoded.raw).decode()

    assert changed == {"action_id", "proposed_at", "changes"}
    assert [leg | {"after": None} for leg in after["changes"]] == [leg | {"after": None} for leg in before["changes"]]
    assert one.held.action_id.startswith("~")
    assert monitor_seeds.ms_of(one.held.moment) - monitor_seeds.ms_of(after["proposed_at"]) == 100, "as it was"
    for betrays in (source.action_id, source.hash, source.origin, source.id, "ben", source.trace or "-"):
        assert betrays not in value


def test_what_headers_said_of_the_source_stands_in_the_canary_itself():
    """A CloudEvent whose type is a header: the canary travels without any."""
    source, ce = asking(), {"ce_type": "bid.adjust"}
    raw = json.dumps({name: part for name, part in json.loads(bytes(source.action)).items() if name != "type"}).encode()
    decoded = decode_bytes(raw, ce)
    assert isinstance(decoded, Decoded)
    one = made(judgement(replace(source, ce=ce, hash=decoded.hash, action=Raw(raw))))

    assert record(one).decision.ce == {}
    assert record(one).decoded.action.type == "bid.adjust"


def test_the_same_judgement_draws_the_same_canary_again_to_the_byte():
    found = [judgement(asking(n)) for n in range(20)]
    values = {seeded_value(one.held, one.decoded.raw) for one in (made(*found) for _ in range(2))}
    others = {made(*found, origin=f"hitl.observations/0/{n}").held.action_id for n in range(40)}

    assert len(values) == 1
    assert len(others) > 10, "and another one another"


def test_so_many_judgements_bring_a_canary_as_the_rate_says_and_a_replay_draws_the_same():
    seeds, other = Seeds(NAMES, 1), Seeds(SealKey("p2", b"\x07" * 32), 1)
    places = [f"hitl.observations/0/{n}" for n in range(4_000)]
    lots = [seeds.is_drawn(place, 0.05) for place in places]

    assert 150 < sum(lots) < 250
    assert [Seeds(NAMES, 9).is_drawn(place, 0.05) for place in places] == lots
    assert [other.is_drawn(place, 0.05) for place in places] != lots, "nobody without the key can tell"
    assert all(seeds.is_drawn(place, 0.10) for place, lot in zip(places, lots, strict=True) if lot)


def test_sources_of_a_workers_own_partition_come_first():
    found = [judgement(asking(n)) for n in range(40)]
    owners = {asking(n).hash: int(asking(n).hash[:8], 16) % 4 for n in range(40)}
    for partition in range(4):
        seeds = seeds_of(*found, partitions=4)
        ranked = seeds._ranked(drawn(partition=partition))
        mine = [owners[source.hash] == partition for source in ranked]
        assert mine == sorted(mine, reverse=True)
        assert any(mine)
        assert not all(mine), "then the others"


# --- limits -----------------------------------------------------------------------------------------------------------


def test_neither_a_burst_nor_one_agent_fills_the_pool(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(monitor_seeds, "CANDIDATES_MAX", 40)
    seeds = Seeds(NAMES, 1)
    quiet = [asking(n, at_ms=START_MS + n * HOUR_MS, agent="quiet-1") for n in range(10)]
    burst = [asking(100 + n, at_ms=START_MS + 3 * HOUR_MS, agent="loud-1") for n in range(200)]
    for n, one in enumerate([*quiet, *burst]):
        seeds.judged(judgement(one), At(0, n), 0)
    agents = Counter(source.agent for source in seeds._shelves[QUEUE])

    assert agents == {"quiet-1": 10, "loud-1": 30}


def test_what_is_kept_is_bounded(monkeypatch: pytest.MonkeyPatch):
    for name in ("CANDIDATES_MAX", "SEEN_MAX", "APPROVALS_PLACED_MAX", "USED_MAX", "QUEUES_MAX"):
        monkeypatch.setattr(monitor_seeds, name, 5)
    seeds = Seeds(NAMES, 1)
    for n in range(60):
        seeds.judged(judgement(asking(n, queue=f"queue-{n % 9}")), At(0, n), 0)
        seeds.seeded(replace(asking(n), purpose="canary", for_="ana", origin=str(n), action_id=f"~{n}"))

    sizes = (seeds._seen, seeds.placed, seeds._used, seeds._drawn, seeds._shelves)
    assert [len(one) for one in sizes] == [5] * 5
    assert all(len(list(shelf)) <= 5 for shelf in seeds._shelves.values())
    assert CANDIDATES_MAX > 100


# --- judging again ----------------------------------------------------------------------------------------------------


def again(source: Held, **parts: Any) -> Seeded | None:
    asked = asked_in(judgement(replace(source, **parts)).asked, bytes(source.action))
    assert isinstance(asked, Decided)
    return second_of(asked, "ana", NOW_MS)


def test_what_is_judged_again_is_the_same_action_and_says_who_judged_it_first():
    source = asking()
    one = again(source)
    assert one is not None
    found = record(one)

    assert (found.decision.purpose, found.decision.first) == ("second", First("ana", "approve"))
    assert (found.decision.action_id, found.decision.hash) == (source.action_id, source.hash)
    assert found.decoded.raw == bytes(source.action)
    assert found.decision.moment == monitor_seeds.time_text(NOW_MS), "its clocks begin now"
    assert isinstance(found.decoded, Decoded)


@pytest.mark.parametrize(("purpose", "asks"), [("audit", True), ("second", True), ("canary", False)])
def test_only_what_was_real_is_judged_again(purpose: str, asks: bool):
    assert (again(asking(), purpose=purpose) is not None) is asks
