"""What people really decide verifies clean, whatever happens; what a desk must not write is found, by name."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

import msgspec
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from hitl_stream.core.events import End, Mode, Outcome, Why
from hitl_stream.core.reasons import Reason
from hitl_stream.wire import desk_records, records
from hitl_stream.wire.codec import Decoded, decode_bytes
from hitl_stream.wire.decided import Decided, read_decided
from hitl_stream.wire.executed import closed_value, exceptional_value
from hitl_stream.wire.records import decode_approved, time_text
from hitl_stream.wire.seal import SEAL_HEADER, TYPE_HEADER, SealKey, sealer
from support.desk import EXECUTOR_KEY, MINUTE, SECOND
from support.make import NOW_MS, SEAL_KEY, action_bytes, change, iso, make_policy, post
from support.office import DIGEST, KEYS, Office, found, said

BIG = {"changes": [change("1.00", "1.30")]}
"""A bid that a trader is asked about, within 15 minutes."""
TWO = make_policy(classes={"bid.adjust": {"people": 2}})
DAY_MS = 86_400_000


def bid(number: int = 1, **parts: Any) -> bytes:
    return action_bytes(action_id=f"act-{number}", **{**BIG, **parts})


def office(policy: Any = None, **parts: Any) -> tuple[Office, str]:
    """Return an office in which people are asked about one action, and its item."""
    work = Office(policy)
    (item,) = work.opened(bid(**parts))
    return work, item


def decided(*said_: tuple[str, str], policy: Any = None, edits: Any = ()) -> tuple[Office, str]:
    """Return one in which these people have said these words."""
    work, item = office(policy)
    work.now_ms += MINUTE
    for by, word in said_:
        work.say(item, word, by, edits=edits if word == "change" else ())
    work.work()
    return work, item


# --- what really happens ----------------------------------------------------------------------------------------------


@pytest.mark.behaviour("I6", "I7")
def test_everything_that_people_may_decide_verifies():
    work = Office()
    items = work.opened(*(bid(number, changes=[change("1.00", "1.30", campaign=f"c-{number}")]) for number in range(8)))
    approved, rejected, changed, twice, expired, parked, contradicted, unread = items
    work.now_ms += MINUTE
    work.say(approved)
    work.say(rejected, "reject")
    work.say(changed, "change", edits=[("/changes/0/after", "1.10")])
    value = work.verdict(twice)
    work.append("verdicts", value)
    work.append("verdicts", value)
    work.say(contradicted, "reject")
    work.say(contradicted, "approve", by="theo")
    work.append("verdicts", b"{")
    work.say(unread, by="dana")  # the agent's owner: refused
    work.skip(unread)
    work.work()
    work.engage("campaign:c-5")
    work.say(parked)
    work.work()
    work.later(5 * 3_600_000)

    report, people = work.verify()

    assert found(report) == {}
    assert people.judgements.unsure == 0
    assert {row.invariant: row.verdict for row in report.rows}["I7"] == "ok"
    checked = {row.invariant: row.checked for row in report.rows}
    assert checked["I6"] > 20
    assert checked["I7"] == 2 + 3  # two execute records, three approvals that counted
    assert work.end(expired) == "EXPIRED"


def test_two_people_verify():
    work, _ = decided(("tess", "approve"), ("theo", "approve"), policy=TWO)
    assert len(work.logs["execute"]) == 1
    assert found(work.verify()[0]) == {}


def test_what_came_after_the_ends_were_taken_is_left_to_the_next_time():
    work, _ = decided(("tess", "approve"))
    kept = work.logs["execute"][:]
    work.logs["execute"].clear()

    assert found(work.verify()[0]) == {"I6": 1}
    settled = {"decisions": 0, "reviews": 1, "execute": 0}
    assert found(work.verify(settled=settled)[0]) == {}
    work.logs["execute"] += kept
    work.logs["decisions"].clear()
    assert found(work.verify(settled=settled, committed=0)[0]) == {}


def test_what_may_have_been_deleted_is_not_missed():
    work, _ = decided(("tess", "approve"))
    work.logs["execute"].clear()
    assert found(work.verify(since_ms=work.now_ms + 1)[0]) == {}


# --- what must not be -------------------------------------------------------------------------------------------------


def twice_applied(work: Office, item: str) -> None:
    one = work.logs["decisions"][0]
    work.write("decisions", desk_records.HUMAN_DECISION, one.value or b"")


def applied_by_two(work: Office, item: str) -> None:
    """A second verdict, which came too late to count, counted."""
    work.say(item, "reject", "theo")
    work.work()
    work.rewrite("decisions", 1, lambda value: value.replace(b'"conflict"', b'"applied"'), desk_records.HUMAN_DECISION)


def without_its_verdict(work: Office, item: str) -> None:
    work.logs["decisions"].clear()


def by_a_refused_one(work: Office, item: str) -> None:
    _judged(work, 0, effect="refused", why="too_fast")


def about_another_verdict(work: Office, item: str) -> None:
    other = json.loads(work.verdict(item, by="theo"))["jws"]
    _judged(work, 0, jws=other)


def of_no_place(work: Office, item: str) -> None:
    _judged(work, 0, source="somewhere")


def on_other_bytes(work: Office, item: str) -> None:
    _judged(work, 0, hash="0" * 64)


def without_an_answer(work: Office, item: str) -> None:
    work.append("verdicts", work.verdict(item, "reject", "theo"))


def unread_and_kept(work: Office, item: str) -> None:
    work.append("verdicts", b"{")


def by_the_owner(work: Office, item: str) -> None:
    """The desk lets the agent's owner approve: all of it is signed and sealed."""
    _says(work, item, by="dana")


def by_a_stranger(work: Office, item: str) -> None:
    """Nobody has listed this role for the queue."""
    _says(work, item, role="labeller")


def of_other_bytes(work: Office, item: str) -> None:
    _says(work, item, hash="0" * 64)


def by_one_person_twice(work: Office, item: str) -> None:
    _judged(work, 1, by=" Tess")


def signed_by_one_person_twice(work: Office, item: str) -> None:
    approved = decode_approved(work.logs["execute"][0].value or b"")
    first = approved.verdicts[0]
    again = msgspec.structs.replace(approved, verdicts=(first, first), by=("tess",))
    work.rewrite("execute", 0, lambda _: records.encode(again))


def with_a_flipped_byte(work: Office, item: str) -> None:
    approved = decode_approved(work.logs["execute"][0].value or b"")
    jws = approved.verdicts[0]
    head, payload, signature = jws.split(".")
    flipped = ".".join((head, payload, ("A" if signature[0] != "A" else "B") + signature[1:]))
    work.rewrite("execute", 0, lambda value: value.replace(jws.encode(), flipped.encode()))


def approved_and_nowhere(work: Office, item: str) -> None:
    work.logs["execute"].clear()


def approved_twice(work: Office, item: str) -> None:
    work.write("execute", records.DECISION, work.logs["execute"][0].value or b"")


def rejected_and_runs(work: Office, item: str) -> None:
    """A rejection, after which the approval of somebody else lets it run."""
    other, _ = decided(("tess", "approve"))
    jws = json.loads(work.verdict(item, "approve", "tess", hash=other_hash(work)))["jws"]
    made = decode_approved(other.logs["execute"][0].value or b"")
    value = records.encode(msgspec.structs.replace(made, verdicts=(jws,)))
    work.write("execute", records.DECISION, value)


def other_hash(work: Office) -> str:
    found_: str = json.loads(work.logs["decisions"][0].value or b"")["hash"]
    return found_


def rejected_and_open(work: Office, item: str) -> None:
    work.logs["closed"].clear()


def changed_without_its_action(work: Office, item: str) -> None:
    work.logs["actions"].pop()


def changed_by_two_actions(work: Office, item: str) -> None:
    last = work.logs["actions"][-1]
    work.logs["actions"].append(_again(last, len(work.logs["actions"])))


def _again(record: Any, offset: int) -> Any:
    return type(record)(
        record.value, offset, record.partition, record.timestamp, record.topic, record.key, record.headers
    )


def late_and_counts(work: Office, item: str) -> None:
    _judged(work, 0, appended=time_text(NOW_MS + 15 * MINUTE))


def after_the_deadline_and_counts(work: Office, item: str) -> None:
    _judged(work, 0, appended=time_text(NOW_MS + 30 * DAY_MS))


def ended_anew(work: Office, item: str) -> None:
    last = work.logs["reviews"][-1].value or b""
    work.write("reviews", desk_records.REVIEW, last.replace(b'"state":"APPROVED"', b'"state":"PARKED"'))


def _judged(work: Office, index: int, **members: Any) -> None:
    """Change members of what the desk wrote on `decisions`."""

    def change_(value: bytes) -> bytes:
        one = desk_records.decode_human_decision(value)
        return records.encode(msgspec.structs.replace(one, **members))

    work.rewrite("decisions", index, change_, desk_records.HUMAN_DECISION)


def _says(work: Office, item: str, **claims: Any) -> None:
    """Replace the one verdict, and everything that repeats it, by one with other claims."""
    approved = decode_approved(work.logs["execute"][0].value or b"")
    fields = {"hash": approved.hash, "jti": "v-other", **claims}
    jws = json.loads(work.verdict(item, **fields))["jws"]
    by = claims.get("by", "tess")
    value = records.encode(msgspec.structs.replace(approved, verdicts=(jws,), by=(by,)))
    work.rewrite("execute", 0, lambda _: value)
    work.logs["verdicts"][0].value = json.dumps({"jws": jws, "shown": "{}"}).encode()
    _judged(work, 0, jws=jws, by=by)


Plant = Callable[[Office, str], None]
APPROVED: Mapping[Plant, Mapping[str, str]] = {
    twice_applied: {"I6": "a verdict was answered twice"},
    applied_by_two: {"I6": "approve and reject were both applied"},
    without_its_verdict: {"I6": "runs by a verdict that nobody has judged"},
    by_a_refused_one: {"I6": "runs by a verdict that did not count (refused)"},
    about_another_verdict: {"I6": "answers another verdict than stands at its source"},
    of_no_place: {"I6": "names somewhere as its verdict, which is no place"},
    on_other_bytes: {"I3": "runs by a verdict on other bytes"},
    without_an_answer: {"I6": "a verdict that the desk has passed has no answer"},
    unread_and_kept: {"I6": "a verdict that the desk has passed has no answer"},
    by_the_owner: {"I7": "dana answers for the agent bidder-7"},
    by_a_stranger: {"I7": "trading asks for 1 people, 0 with a role of it approved"},
    of_other_bytes: {"I7": "verdict 0 of tess: it is about other bytes"},
    with_a_flipped_byte: {"I7": "its signature does not count (signature)", "I6": "nobody has judged"},
    approved_and_nowhere: {"I6": "is approved, and neither runs nor lies parked"},
    approved_twice: {"I6": "goes 2 ways: runs, runs"},
    late_and_counts: {"I11": "a verdict came 0 ms after the time to decide was over, and counted"},
    after_the_deadline_and_counts: {"I11": "after its deadline, and counted"},
    ended_anew: {"I6": "ended as APPROVED and again as PARKED"},
}


@pytest.mark.behaviour("I6", "I7")
@pytest.mark.parametrize("plant", APPROVED, ids=lambda plant: plant.__name__)
def test_what_is_planted_around_an_approval_is_found_by_name(plant: Plant):
    work, item = decided(("tess", "approve"))
    assert found(work.verify()[0]) == {}
    plant(work, item)

    report, _ = work.verify()

    for invariant, words in APPROVED[plant].items():
        assert any(words in what for what in said(report, invariant)), report.violations


@pytest.mark.parametrize("plant", [by_one_person_twice, signed_by_one_person_twice])
def test_two_people_who_are_one_are_found(plant: Plant):
    work, item = decided(("tess", "approve"), ("theo", "approve"), policy=TWO)
    plant(work, item)
    assert any("approved twice" in what or "1 with a role" in what for what in said(work.verify()[0], "I7"))


@pytest.mark.parametrize(
    ("plant", "words"),
    [
        (rejected_and_runs, "goes 2 ways: runs, is closed as rejected"),
        (rejected_and_open, "was to be closed as rejected, and is not"),
    ],
)
def test_what_is_planted_around_a_rejection_is_found_by_name(plant: Plant, words: str):
    work, item = decided(("tess", "reject"))
    assert found(work.verify()[0]) == {}
    plant(work, item)
    assert any(words in what for what in said(work.verify()[0], "I6"))


@pytest.mark.parametrize(
    ("plant", "words"),
    [
        (changed_without_its_action, "is changed, and 0 actions stand in its place"),
        (changed_by_two_actions, "is changed, and 2 actions stand in its place"),
        (rejected_and_open, "was to be closed as superseded, and is not"),
    ],
)
def test_what_is_planted_around_a_change_is_found_by_name(plant: Plant, words: str):
    work, item = decided(("tess", "change"), edits=[("/changes/0/after", "1.10")])
    assert found(work.verify()[0]) == {}
    plant(work, item)
    assert any(words in what for what in said(work.verify()[0], "I6"))


def test_an_action_that_a_publisher_says_the_desk_wrote_is_none():
    work, _ = decided(("tess", "change"), edits=[("/changes/0/after", "1.10")])
    last = _again(work.logs["actions"][-1], len(work.logs["actions"]))
    last.headers = [(name, b"d1:AAAA" if name == "hitl-seal" else value) for name, value in last.headers]
    work.logs["actions"].append(last)
    assert found(work.verify()[0]) == {}
    assert found(work.verify(keys={name: keys for name, keys in KEYS.items() if name != "desk"})[0])["I6"] == 1


@pytest.mark.parametrize("topic", ["decisions", "reviews"])
def test_what_a_stranger_writes_counts_for_nothing(topic: str):
    work, _ = decided(("tess", "reject"))
    one = work.logs[topic][-1]
    kind = desk_records.HUMAN_DECISION if topic == "decisions" else desk_records.REVIEW
    value = (
        (one.value or b"").replace(b'"REJECTED"', b'"PARKED"').replace(b'"hitl.verdicts/0/0"', b'"hitl.verdicts/0/9"')
    )
    work.write(topic, kind, value, SealKey("d1", b"\x66" * 32))
    assert found(work.verify()[0]) == {"seal": 1}


@pytest.mark.parametrize("topic", ["decisions", "reviews", "execute", "verdicts"])
@pytest.mark.parametrize(
    "value", [b"", b"{", b"\xff", b"[" * 50_000, b'{"jws":"a.b.c","shown":""}', b'{"jws":"a.W10.c"}']
)
def test_bytes_that_are_none_of_ours_raise_nothing(topic: str, value: bytes):
    work, _ = decided(("tess", "approve"))
    work.write(topic, records.DECISION, value)
    assert not work.verify(committed=1)[0].violations or topic != "verdicts"


# --- times, switches, policies ----------------------------------------------------------------------------------------


def test_a_clock_that_a_switch_may_have_stopped_is_told_and_no_violation():
    work, item = office()
    epoch = work.engage("campaign:cmp-204")
    work.now_ms += 20 * MINUTE
    work.release(epoch)
    work.now_ms += MINUTE
    work.say(item)
    work.work()
    assert len(work.logs["execute"]) == 1, "its clock stood for 20 minutes"

    report, people = work.verify()
    assert found(report) == {}
    assert people.judgements.unsure == 1
    unknown, people = work.verify(with_control=False)
    assert found(unknown) == {}
    assert people.judgements.unsure == 1


def test_a_switch_elsewhere_stops_no_clock():
    work, item = decided(("tess", "approve"))
    work.engage("campaign:elsewhere")
    late_and_counts(work, item)
    assert found(work.verify()[0]) == {"I11": 1}


def test_who_approved_under_a_policy_that_nothing_records_is_left_out_and_told():
    work, _ = decided(("tess", "approve"))
    report, people = work.verify(file=(work.desk.policies.policy, "e" * 64))
    assert found(report) == {}
    assert people.unrecorded == {DIGEST: 1}


def test_what_was_approved_after_control_was_read_is_left_to_the_next_time():
    work, item = decided(("tess", "approve"))
    _says(work, item, by="dana")
    assert found(work.verify()[0]) == {"I7": 1}
    work.rewrite("execute", 0, lambda value: value.replace(b'"epoch":-1', b'"epoch":7', 1))
    assert found(work.verify()[0]) == {}


def test_a_key_that_has_ended_since_still_speaks_for_what_was_said():
    work, _ = decided(("tess", "approve"))
    past = work.past()
    past.keys.append((9, {}))
    assert past.keys_at(8) == work.control.keys
    assert past.keys_at(9) == {}


# --- what nobody lets run ---------------------------------------------------------------------------------------------


def trouble(word: str) -> tuple[Office, str]:
    """Return an office in which the platform refused an action, and a person has said what to do about it."""
    work = Office()
    (answer, *_) = work.propose(action_bytes())
    decided_ = read_decided(answer.topic, answer.value, answer.headers, KEYS["router"])
    assert isinstance(decided_, Decided)
    value = exceptional_value(decided_.decision, decided_.decoded.raw, "budget is locked", "trading", NOW_MS + MINUTE)
    seal = sealer(EXECUTOR_KEY, "hitl.escalation", records.DECISION)(records.head_of(value))
    work.append("escalation", value, b"k", [(TYPE_HEADER, b"decision/1"), (SEAL_HEADER, seal)])
    work.work()
    (item,) = work.open_items()
    work.now_ms += MINUTE
    work.say(item, word, edits=[("/changes/0/after", "1.10")] if word == "change" else ())
    work.work()
    return work, item


@pytest.mark.parametrize(("word", "written"), [("approve", 1), ("change", 1), ("reject", 0)])
def test_of_an_exception_a_new_action_follows_and_nothing_is_closed(word: str, written: int):
    work, item = trouble(word)
    assert len(work.logs["actions"]) == 1 + written
    assert found(work.verify()[0]) == {}
    del work.logs["actions"][1:]
    assert found(work.verify()[0]) == ({"I6": 1} if written else {}), item


def test_what_a_newer_action_has_overtaken_is_closed_as_stale():
    work, item = office()
    decoded = decode_bytes(bid(3))
    assert isinstance(decoded, Decoded)
    result = records.Result(
        id="hitl.actions/0/7#0", tenant="acme", action_id="act-3", hash=decoded.hash, type="bid.adjust", level=3,
        agent=decoded.action.agent, entity=decoded.action.changes[0].entity, outcome="EXECUTE", policy=DIGEST,
        moment=iso(NOW_MS), status="executed", key="k", action=records.Raw(decoded.raw),
    )  # fmt: skip
    value = records.encode(result)
    seal = sealer(EXECUTOR_KEY, "hitl.results", records.RESULT)(records.head_of(value))
    work.append("results", value, b"k", [(TYPE_HEADER, b"result/1"), (SEAL_HEADER, seal)])
    work.work()
    assert work.end(item) == "STALE"
    assert found(work.verify()[0]) == {}
    work.logs["closed"].clear()
    assert said(work.verify()[0], "I6") == [f"item {item} ended as STALE, and nothing came of it"]


def test_what_the_router_parks_again_is_no_second_way_and_what_a_stranger_parks_is_none():
    work, item = office()
    work.engage("campaign:cmp-204")
    work.say(item)
    work.work()
    (held,) = work.logs["held"]
    work.write("held", records.DECISION, held.value or b"", SEAL_KEY)
    assert said(work.verify()[0], "I6") == []
    work.write("held", records.DECISION, held.value or b"", SealKey("d1", b"\x66" * 32))
    assert said(work.verify()[0], "I6") == []
    work.write("held", records.DECISION, held.value or b"")
    assert said(work.verify()[0], "I6") == ["what people decided once goes 2 ways: is parked, is parked"]


@pytest.mark.parametrize(("topic", "kind"), [("held", records.DECISION), ("closed", records.CLOSED)])
def test_what_a_stranger_writes_is_not_what_had_to_follow(topic: str, kind: str):
    work, item = office()
    if topic == "held":
        work.engage("campaign:cmp-204")
    work.say(item, "approve" if topic == "held" else "reject")
    work.work()
    value = work.logs[topic].pop().value or b""
    work.write(topic, kind, value, SealKey("d1", b"\x66" * 32))
    assert found(work.verify()[0]) == {"seal": 1, "I6": 1}
    work.logs[topic].clear()
    work.write(topic, kind, value)
    assert found(work.verify()[0]) == {}


def test_what_an_executor_closes_later_is_no_second_way():
    work, _ = decided(("tess", "approve"))
    approved = decode_approved(work.logs["execute"][0].value or b"")
    reason = Reason("executor.execute_by", "", None, Outcome.REFUSE)
    value = closed_value(approved, bytes(approved.action), End.EXPIRED, Why.EXECUTE_BY, reason)
    work.write("closed", records.CLOSED, value, EXECUTOR_KEY)
    assert found(work.verify()[0]) == {}


# --- batches ----------------------------------------------------------------------------------------------------------


def caption(number: int, size: int) -> bytes:
    batch = {"id": "b-7", "size": size, "index": number}
    said_ = {**post("Fresh bread, every morning."), "type": "post.publish", "agent": {"id": "copy-2"}, "batch": batch}
    return action_bytes(action_id=f"post-{number}", expires_at=iso(NOW_MS + 3 * DAY_MS), **said_)


def released(by: str = "eve") -> Office:
    """Return an office in which a batch of 200 was judged by eve, and released."""
    work = Office()
    work.propose(*(caption(number, 200) for number in range(200)))
    work.work()
    for item in [name for name in work.open_items() if work.review(name).state == "OPEN"]:
        work.say(item, by="eve", role="editor")
    work.work()
    work.release_batch(work.lot("acme/acc-17/b-7"), by=by, role="editor")
    work.work()
    work.later(0)
    assert len(work.logs["execute"]) == 200
    return work


@pytest.mark.parametrize("by", ["eve", "ed"])
def test_a_batch_that_eve_judged_verifies_whoever_released_it(by: str):
    report, _ = released(by).verify()
    assert found(report) == {}
    assert {row.invariant: row.checked for row in report.rows}["I7"] > 200


def test_a_batch_that_nobody_released_and_that_runs_is_found():
    work = released()
    kept = [record for record in work.logs["decisions"] if b'"verdict":"release"' not in (record.value or b"")]
    work.logs["decisions"][:] = kept
    report, _ = work.verify()
    assert "runs by a verdict that nobody has judged" in said(report, "I6")


# --- whatever happens -------------------------------------------------------------------------------------------------


class People(RuleBasedStateMachine):
    """Agents, people, time, switches and crashes in any order: at any moment it verifies."""

    @initialize(two=st.booleans())
    def start(self, two: bool) -> None:
        self.work = Office(TWO if two else None)
        self.number = 0
        self.engaged: list[int] = []
        self.values: list[bytes] = []

    @rule(count=st.integers(1, 3), campaign=st.integers(0, 2))
    def propose(self, count: int, campaign: int) -> None:
        for _ in range(count):
            self.number += 1
            leg = change("1.00", "1.30", campaign=f"c-{campaign}")
            proposed = iso(self.work.now_ms - 100)
            self.work.propose(bid(self.number, changes=[leg], proposed_at=proposed))
        self.work.work()

    @precondition(lambda self: self.work.state.items)
    @rule(
        which=st.integers(0, 9),
        word=st.sampled_from(["approve", "approve", "reject", "change", "escalate"]),
        by=st.sampled_from(["tess", "theo", "Tess", "dana", "mia"]),
        role=st.sampled_from(["trader", "trader", "marketing_manager", "labeller"]),
        repeat=st.booleans(),
    )
    def say(self, which: int, word: str, by: str, role: str, repeat: bool) -> None:
        items = sorted(self.work.state.items)
        edits = [("/changes/0/after", "1.10")] if word == "change" else ()
        value = self.work.verdict(items[which % len(items)], word, by, role, edits=edits)
        self.values.append(value)
        for _ in range(1 + repeat):
            self.work.append("verdicts", value)

    @precondition(lambda self: self.values)
    @rule(which=st.integers(0, 9))
    def repeat(self, which: int) -> None:
        self.work.append("verdicts", self.values[which % len(self.values)])

    @rule(value=st.sampled_from([b"{", b'{"jws":"a.b.c","shown":""}', b""]))
    def write_nonsense(self, value: bytes) -> None:
        self.work.append("verdicts", value)

    @rule(abort=st.sampled_from([False, False, True]))
    def read(self, abort: bool) -> None:
        self.work.work(abort=abort)

    @rule(ms=st.sampled_from([SECOND, MINUTE, 8 * MINUTE, 16 * MINUTE, 5 * 3_600_000, DAY_MS]))
    def wait(self, ms: int) -> None:
        self.work.later(ms)

    @rule(scope=st.sampled_from(["campaign:c-0", "campaign:c-1", "tenant:acme"]), mode=st.sampled_from(Mode))
    def engage(self, scope: str, mode: Mode) -> None:
        if len(self.engaged) < 3:
            self.engaged.append(self.work.engage(scope, mode=mode))

    @precondition(lambda self: self.engaged)
    @rule()
    def release(self) -> None:
        self.work.release(self.engaged.pop())

    @rule()
    def crash(self) -> None:
        self.work.reopen()

    @rule()
    def verify(self) -> None:
        waiting = sum(record.topic.endswith("verdicts") for record in self.work.waiting)
        report, _ = self.work.verify(committed=len(self.work.logs["verdicts"]) - waiting)
        assert report.ok, report.violations

    def teardown(self) -> None:
        if hasattr(self, "work"):
            self.verify()


People.TestCase.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
test_whatever_people_do_the_log_verifies = People.TestCase
