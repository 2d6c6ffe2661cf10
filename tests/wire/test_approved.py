"""What people approved runs only where every signature, seal and rule is good again for the one who lets it run."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hitl_stream.core.commands import KeyEntry
from hitl_stream.core.control import ALIVE_MS_MAX
from hitl_stream.core.events import ErrorClass
from hitl_stream.core.merkle import Tree
from hitl_stream.core.policy.compile import EXECUTE_BY_MAX_MS
from hitl_stream.core.verdicts import BatchRelease, PairChoice, Skipped
from hitl_stream.roles.executor import Vouched
from hitl_stream.wire.approved import VERDICTS_MAX, owners_of, read_approved
from hitl_stream.wire.codec import Undecodable
from hitl_stream.wire.records import Approved, Proof, head_of, time_text
from hitl_stream.wire.seal import SEAL_HEADER, TYPE_HEADER, SealKey
from support.make import DESK_KEY, NOW_MS, SEAL_KEY, FakeRecord, change, iso, make_policy, post
from support.people import (
    ANA_KEY,
    APPENDED_MS,
    CONSOLE_KEY,
    EXECUTE,
    KEYS,
    MONITOR_KEY,
    STRANGER_KEY,
    TESS_KEY,
    Case,
    entry,
    sealed_record,
    words,
)

ONE = Case()
VALUE = ONE.value()
DESK_KEYS = {DESK_KEY.key_id: DESK_KEY}
OTHER_KEY = SealKey("d1", b"\x09" * 32)
DESKS_OWN = {"epoch", "moment", "execute_by", "held", "given"}
"""Members that are the desk's to say: whoever holds its key may have them otherwise."""
STRATEGY: Mapping[str, Any] = {"type": "strategy.change", "changes": [change("100", "130", field="daily_budget")]}
"""An action that two people of `manager` must approve."""
MANAGER = "marketing_manager"


def read(case: Case, record: FakeRecord | None = None) -> Vouched | Undecodable:
    return case.approvals().read(record if record is not None else case.record())


def doubt(case: Case, record: FakeRecord | None = None) -> str:
    """Return why approvals do not hold; empty: they do."""
    found = read(case, record)
    assert isinstance(found, Vouched), found
    return found.unsealed


def resealed(value: bytes, **members: Any) -> FakeRecord:
    """Return a record with other members in its head, as whoever holds the desk's key could write it."""
    cut = len(head_of(value))
    head = msgspec.json.encode(json.loads(value[:cut] + b"}") | members)[:-1]
    return sealed_record(head + value[cut:])


def managers(*names: str) -> tuple[tuple[str, str], ...]:
    return tuple((name, MANAGER) for name in names)


# --- what holds -------------------------------------------------------------------------------------------------------


@pytest.mark.behaviour("A2", "B7")
def test_what_one_trader_approved_holds_and_is_the_routers_decision_once_more() -> None:
    found = read(ONE)

    assert isinstance(found, Vouched)
    assert found.unsealed == ""
    ours, theirs = found.decision, ONE.decision
    assert (ours.id, ours.attempt, ours.origin, ours.hash) == (theirs.id, theirs.attempt, theirs.origin, theirs.hash)
    assert (ours.outcome, theirs.outcome) == ("EXECUTE", "REVIEW")
    assert (ours.by, ours.epoch, ours.moment) == (("tess",), 7, time_text(APPENDED_MS + 5))
    assert ours.reasons == theirs.reasons
    assert found.decoded.raw == ONE.raw


def test_the_actions_bytes_are_the_last_member_untouched() -> None:
    spaced = Case(parts={"context": {"price": 1.2000, "naïve": "⚠️"}})

    assert spaced.value().endswith(b',"action":' + spaced.raw + b"}")
    assert doubt(spaced) == ""


def test_a_persons_own_key_speaks_for_its_holder() -> None:
    assert doubt(ONE.with_(key=TESS_KEY)) == ""


@pytest.mark.parametrize("role", [MANAGER, "trader"])
def test_a_queue_that_an_item_may_escalate_to_may_say_yes_for_it(role: str) -> None:
    """`trading` escalates to `manager`: that it did cannot be seen here, that it may have can."""
    assert doubt(ONE.with_(by=[("mia", role)])) == ""


@pytest.mark.behaviour("B7", "E3")
def test_two_people_of_its_queue_are_enough_where_two_are_asked() -> None:
    assert doubt(Case(parts=STRATEGY, by=managers("mia", "max"))) == ""


def test_the_clocks_of_the_readers_host_and_the_key_being_over_by_now_change_nothing() -> None:
    """A verdict is judged by its own append time."""
    ended = entry(CONSOLE_KEY, until_ms=APPENDED_MS + 1)

    assert doubt(ONE.with_(keys={**KEYS, "console-1": ended})) == ""


# --- what was changed -------------------------------------------------------------------------------------------------


@pytest.mark.behaviour("A2", "E3")
def test_any_byte_flipped_anywhere_in_the_record_is_refused() -> None:
    """Approve A, run B: what was sealed and what was hashed cover every byte."""
    good = ONE.record()
    assert good.value is not None
    approvals = ONE.approvals()
    for place, byte in enumerate(good.value):
        for other in {byte ^ 1, byte ^ 0x20, byte ^ 0x80, 0x20, 0x22} - {byte}:
            value = good.value[:place] + bytes([other]) + good.value[place + 1 :]
            found = approvals.read(FakeRecord(value, topic=EXECUTE, headers=good.headers))
            assert isinstance(found, Undecodable), (place, value[max(0, place - 20) : place + 20])


@pytest.mark.parametrize("name", [TYPE_HEADER, SEAL_HEADER])
def test_any_byte_flipped_in_its_headers_is_refused(name: str) -> None:
    good = ONE.record()
    approvals = ONE.approvals()
    for place in range(len(dict(good.headers)[name])):
        headers = [(key, _flipped(text, place) if key == name else text) for key, text in good.headers]
        assert isinstance(approvals.read(FakeRecord(good.value, topic=EXECUTE, headers=headers)), Undecodable)


@pytest.mark.behaviour("A2")
def test_a_desk_gone_bad_cannot_flip_a_byte_of_what_it_does_not_decide() -> None:
    """With the desk's own key: the router's seal and people's signatures still cover everything else."""
    head = head_of(VALUE)
    approvals = ONE.approvals()
    good = read(ONE, sealed_record(VALUE))
    assert isinstance(good, Vouched)
    passed = 0
    for place in range(len(head)):
        value = _flipped(head, place) + VALUE[len(head) :]
        found = approvals.read(sealed_record(value))
        if isinstance(found, Vouched) and not found.unsealed:
            assert _but_the_desks_own(found.decision) == _but_the_desks_own(good.decision), place
            passed += 1
    assert passed < 150, "digits of its times and epochs, and names of members that are null anyway"


def _flipped(text: bytes, place: int) -> bytes:
    return text[:place] + bytes([text[place] ^ 1]) + text[place + 1 :]


def _but_the_desks_own(decision: Approved) -> dict[str, Any]:
    every = {name: getattr(decision, name) for name in Approved.__struct_fields__ if name not in DESKS_OWN}
    return every | {"action": bytes(decision.action)}


@pytest.mark.parametrize(
    ("members", "words_"),
    [
        ({"tenant": "other"}, "routed.head"),
        ({"action_id": "act-2"}, "routed.head"),
        ({"attempt": 1}, "routed.head"),
        ({"origin": "hitl.actions/0/1"}, "routed.head"),
        ({"type": "draft.internal"}, "routed.head"),
        ({"agent": {"id": "copy-2", "version": "1"}}, "routed.head"),
        ({"entity": {"account": "acc-18", "campaign": "cmp-204"}}, "routed.head"),
        ({"purpose": "audit"}, "routed.head"),
        ({"id": "hitl.actions/0/0#1"}, "id is not what the router wrote"),
        ({"approvals": []}, "approvals is not what the router wrote"),
        ({"reasons": []}, "reasons is not what the router wrote"),
        ({"policy": "e" * 64}, "policy is not what the router wrote"),
        ({"level": 4}, "level is not what the router wrote"),
        ({"supersedes": "act-0"}, "supersedes is not what the router wrote"),
        ({"for": "tess"}, "for_ is not what the router wrote"),
        ({"trace": "4bf9"}, "trace is not what the router wrote"),
        ({"outcome": "REVIEW"}, "outcome is REVIEW"),
        ({"by": []}, "by names nobody, but signed have tess"),
        ({"by": ["ana"]}, "by names ana, but signed have tess"),
        ({"by": ["tess", "ana"]}, "by names ana, tess"),
        ({"by": ["tess", "tess"]}, "by names tess"),
        ({"verdicts": [], "given": []}, "0 verdicts"),
        ({"given": []}, "1 verdicts and 0 times"),
        ({"given": ["soon"]}, "given is no time"),
        ({"given": ["2026-11-21T07:11:00.140"]}, "has no offset"),
        ({"verdicts": ["a.b.c"]}, "signature does not count (malformed)"),
        ({"verdicts": ["⚠"]}, "signature does not count (malformed)"),
        ({"verdicts": ["a.b.c"] * (VERDICTS_MAX + 1), "given": [""] * (VERDICTS_MAX + 1)}, "33 verdicts"),
        ({"execute_by": None}, "is no time"),
        ({"execute_by": "tomorrow"}, "is no time"),
        ({"execute_by": "2026-11-21"}, "has no offset"),
        ({"execute_by": "9999-12-31T23:59:59-14:00"}, "after the end of its action"),
    ],
    ids=str,
)
def test_a_member_that_a_desk_gone_bad_wrote_is_found(members: dict[str, Any], words_: str) -> None:
    assert words_ in doubt(ONE, resealed(VALUE, **members))


@pytest.mark.parametrize(
    "members",
    [{"hash": "0" * 64}, {"ce": {"ce_id": "act-1"}}, {"routed": None}, {"verdicts": "x"}, {"proof": {"size": "1"}}],
    ids=str,
)
def test_what_is_no_record_of_ours_is_a_dead_letter_whoever_sealed_it(members: dict[str, Any]) -> None:
    assert isinstance(read(ONE, resealed(VALUE, **members)), Undecodable)


def test_an_action_may_not_run_longer_than_it_says_itself() -> None:
    ends = Case(parts={"expires_at": iso(NOW_MS + 300_000)})

    assert doubt(ends) == ""
    late = resealed(ends.value(), execute_by=time_text(NOW_MS + 300_001))
    assert doubt(ends, late) == "execute_by lies 1 ms after the end of its action"


def test_nothing_may_run_longer_than_any_action_may_after_the_router_saw_it() -> None:
    latest = NOW_MS + EXECUTE_BY_MAX_MS

    assert doubt(ONE, resealed(VALUE, execute_by=time_text(latest))) == ""
    assert "1 ms after" in doubt(ONE, resealed(VALUE, execute_by=time_text(latest + 1)))


# --- whose it is ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("record", "error"),
    [
        (FakeRecord(None, topic=EXECUTE), ErrorClass.EMPTY),
        (FakeRecord(b"", topic=EXECUTE), ErrorClass.EMPTY),
        (FakeRecord(VALUE, topic=EXECUTE), ErrorClass.UNKNOWN_TYPE),
        (FakeRecord(VALUE, topic=EXECUTE, headers=[(TYPE_HEADER, b"decision/2")]), ErrorClass.UNKNOWN_TYPE),
        (FakeRecord(VALUE, topic=EXECUTE, headers=[(TYPE_HEADER, b"decision/1")]), ErrorClass.SEAL),
        (sealed_record(VALUE, OTHER_KEY), ErrorClass.SEAL),
        (sealed_record(VALUE, SEAL_KEY), ErrorClass.SEAL),
        (FakeRecord(VALUE, topic="hitl.held", headers=ONE.record().headers), ErrorClass.SEAL),
        (sealed_record(VALUE[:-1]), ErrorClass.SCHEMA),
        (sealed_record(VALUE + b" "), ErrorClass.SCHEMA),
        (sealed_record(VALUE[:-1] + b',"by":["ana"]}'), ErrorClass.SCHEMA),
        (sealed_record(ONE.asked.value or b""), ErrorClass.SCHEMA),
        (sealed_record(b'{"routed":1}'), ErrorClass.SCHEMA),
        (sealed_record(b'{"a":1,"routed":' + b"[" * 100_000 + b',"action":{}}'), ErrorClass.SCHEMA),
    ],
    ids=lambda part: repr(part)[:60],
)
def test_what_no_desk_sealed_for_this_topic_is_none_of_ours(record: FakeRecord, error: ErrorClass) -> None:
    found = read(ONE, record)

    assert isinstance(found, Undecodable)
    assert found.error is error


def test_another_actions_bytes_under_a_good_head_are_refused() -> None:
    other = Case(parts={"changes": [change("1.20", "9.90")]})
    good = ONE.record()
    swapped = head_of(VALUE) + b',"action":' + other.raw + b"}"

    found = read(ONE, FakeRecord(swapped, topic=EXECUTE, headers=good.headers))
    assert isinstance(found, Undecodable)
    assert found.error is ErrorClass.SEAL


@pytest.mark.parametrize("topic", ["hitl.review.seeded", "hitl.execute", "hitl.held", "hitl.recommendations", ""])
def test_only_what_the_router_put_to_people_can_be_approved(topic: str) -> None:
    routed = msgspec.to_builtins(ONE.routed) | {"topic": topic}

    assert "routed.topic" in doubt(ONE, resealed(VALUE, routed=routed))


@pytest.mark.parametrize(
    "routed",
    [{"seal": ""}, {"seal": "r1:"}, {"seal": "⚠"}, {"topic": "hitl.escalation"}, {"seal": "d1:AAAA"}],
    ids=str,
)
def test_a_seal_inside_that_is_not_the_routers_is_refused(routed: dict[str, str]) -> None:
    members = msgspec.to_builtins(ONE.routed) | routed

    assert "routed.seal is not a router's" in doubt(ONE, resealed(VALUE, routed=members))


def test_the_desk_cannot_stand_in_for_the_router() -> None:
    assert "routed.seal is not a router's" in doubt(ONE.with_(router_key=DESK_KEY))


@pytest.mark.behaviour("E3")
@pytest.mark.parametrize("purpose", ["audit", "second", "canary", "exception", "", "DECIDE"])
def test_nothing_runs_that_people_were_not_asked_to_decide(purpose: str) -> None:
    """A canary that the router itself had sealed, and that everybody approved."""
    case = ONE.with_(routed_changes={"purpose": purpose}, overwrite={"purpose": purpose})

    assert "may run" in doubt(case)


def test_what_was_put_to_one_person_alone_only_tells_how_that_person_judges() -> None:
    assert "may run" in doubt(ONE.with_(routed_changes={"for_": "tess"}, overwrite={"for_": "tess"}))


@pytest.mark.parametrize("outcome", ["EXECUTE", "HOLD", "REFUSE"])
def test_what_the_router_did_not_put_to_anybody_is_not_made_good_by_a_verdict(outcome: str) -> None:
    assert "nobody was asked" in doubt(ONE.with_(routed_changes={"outcome": outcome}))


# --- who said yes -----------------------------------------------------------------------------------------------------


@pytest.mark.behaviour("A2")
@pytest.mark.parametrize("verdict", ["reject", "change", "escalate"])
def test_only_a_yes_is_a_yes(verdict: str) -> None:
    said = [words(hash=ONE.hash, verdict=verdict)]

    assert f"verdict 0 of tess: it says {verdict}" in doubt(ONE.with_(said=said))


def test_a_yes_to_other_bytes_is_none() -> None:
    assert "it is about other bytes" in doubt(ONE.with_(said=[words()]))


def test_a_no_beside_enough_who_said_yes_is_refused() -> None:
    said = [words(hash=ONE.hash), words(by="mia", role=MANAGER, hash=ONE.hash, verdict="reject")]

    assert "verdict 1 of mia: it says reject" in doubt(ONE.with_(said=said))


@pytest.mark.parametrize(
    ("make", "fields"),
    [
        (Skipped, {"item": "r7k2m4qabcdefghi", "how": "skip"}),
        (PairChoice, {"pair": "p", "left": "a", "choice": "left"}),
    ],
)
def test_what_is_no_verdict_approves_nothing(make: Any, fields: dict[str, str]) -> None:
    assert "it approves nothing" in doubt(ONE.with_(said=[words(make=make, **fields)]))


def test_verdicts_on_two_items_are_not_two_on_one() -> None:
    case = Case(parts=STRATEGY)
    said = [words(by=name, role=MANAGER, hash=case.hash, item=f"item-{name}") for name in ("mia", "max")]

    assert "on 2 items" in doubt(case.with_(said=said))


@pytest.mark.parametrize(
    ("key", "keys", "by", "words_"),
    [
        (STRANGER_KEY, KEYS, "stranger", "unknown_key"),
        (MONITOR_KEY, KEYS, "tess", "(service)"),
        (CONSOLE_KEY, KEYS, "monitor", "(service)"),
        (CONSOLE_KEY, KEYS, "console", "(service)"),
        (ANA_KEY, KEYS, "tess", "(person)"),
        (ANA_KEY, KEYS, "ana", "(person)"),
        (CONSOLE_KEY, {"console-1": entry(CONSOLE_KEY, "batch")}, "tess", "(type)"),
        (CONSOLE_KEY, {"console-1": entry(CONSOLE_KEY, until_ms=APPENDED_MS)}, "tess", "key_time"),
        (CONSOLE_KEY, {"console-1": entry(CONSOLE_KEY, from_ms=APPENDED_MS + 1)}, "tess", "key_time"),
        (CONSOLE_KEY, {"console-1": entry(STRANGER_KEY)}, "tess", "signature"),
        (CONSOLE_KEY, {}, "tess", "unknown_key"),
    ],
)
def test_a_key_speaks_only_for_whom_it_may(key: Any, keys: Mapping[str, KeyEntry], by: str, words_: str) -> None:
    """Ana's own key lists no role of a trader."""
    assert words_ in doubt(ONE.with_(key=key, keys=keys, by=[(by, "trader")]))


@pytest.mark.parametrize(
    ("fields", "words_"),
    [
        ({"aud": "cluster-2"}, "audience"),
        ({"exp": APPENDED_MS // 1000 - 1, "iat": APPENDED_MS // 1000 - 60}, "expired"),
        ({"iat": APPENDED_MS // 1000 + 120, "exp": APPENDED_MS // 1000 + 180}, "early"),
        ({"exp": APPENDED_MS // 1000 + ALIVE_MS_MAX // 1000 + 1}, "early"),
    ],
    ids=str,
)
def test_a_verdict_out_of_its_time_or_for_another_cluster_does_not_count(fields: dict[str, Any], words_: str) -> None:
    assert words_ in doubt(ONE.with_(said=[words(hash=ONE.hash, **fields)]))


def test_a_desk_cannot_make_an_old_verdict_young_beyond_its_own_end() -> None:
    for appended_ms, holds in ((ALIVE_MS_MAX - 140, True), (ALIVE_MS_MAX + 1, False)):
        record = resealed(VALUE, given=[time_text(APPENDED_MS + appended_ms)])
        assert (doubt(ONE, record) == "") is holds


# --- whether they are enough ------------------------------------------------------------------------------------------


@pytest.mark.behaviour("B7", "E3")
@pytest.mark.parametrize(
    "by",
    [
        managers("mia"),
        managers("mia", "mia"),
        managers("mia", "MIA"),
        managers("mia", " m i a"),
        (*managers("mia"), ("max", "trader")),
        (("mia", "senior"), ("max", "senior")),
    ],
    ids=str,
)
def test_two_people_means_two_with_the_role(by: Any) -> None:
    assert "manager asks for 2 people" in doubt(Case(parts=STRATEGY, by=by))


def test_a_role_of_another_queue_says_nothing() -> None:
    assert "trading asks for 1 people, 0 with a role of it approved" in doubt(ONE.with_(by=[("ed", "editor")]))


@pytest.mark.behaviour("E3")
@pytest.mark.parametrize("name", ["dana", "Dana", "da na"])
def test_whoever_answers_for_the_agent_cannot_approve_what_it_wants(name: str) -> None:
    assert "answers for the agent bidder-7" in doubt(ONE.with_(by=[(name, "trader")]))


def test_nor_can_who_answers_for_all_agents_of_its_kind() -> None:
    policy = make_policy(agents={"bidder-7": None, "bidder-*": {"owner": "dana"}, "*": {"owner": "olga"}})
    case = Case(policy=policy)

    assert "answers for" in doubt(case.with_(by=[("dana", "trader")]))
    assert "answers for" in doubt(case.with_(by=[("olga", "trader")]))
    assert doubt(case) == ""
    assert owners_of(policy, "bidder-7") == ("dana", "olga")
    assert owners_of(policy, "other") == ("olga",)


@pytest.mark.behaviour("E3")
@pytest.mark.parametrize("name", ["tess", "TESS"])
def test_whoever_proposed_it_cannot_approve_it_even_among_others(name: str) -> None:
    """A person's change of an action is that person's proposal."""
    case = ONE.with_(routed_changes={"by": name}, by=[("tess", "trader"), ("tim", "trader")])

    assert doubt(case) == "tess proposed it"
    assert doubt(case.with_(by=[("tim", "trader")])) == ""


def test_a_person_who_may_not_decide_spoils_it_even_where_others_are_enough() -> None:
    assert "answers for" in doubt(ONE.with_(by=[("tess", "trader"), ("dana", "trader")]))


def test_each_queue_that_was_asked_must_have_said_yes() -> None:
    policy = make_policy(
        rules=[{"id": "big", "classes": ["bid.adjust"], "match": {"confidence": {"under": "0.99"}}, "then": "escalate",
                "queue": "client"}],
        fields={"confidence": "number"},
    )  # fmt: skip
    case = Case(policy=policy)

    assert {row.queue for row in case.decision.approvals} == {"trading", "client"}
    assert "client asks for 1 people" in doubt(case)
    assert "trading asks for 1 people" in doubt(case.with_(by=[("carl", "client")]))
    assert doubt(case.with_(by=[("tess", "trader"), ("carl", "client")])) == ""


@pytest.mark.parametrize(("rules_at", "holds"), [(5, False), (6, True)])
def test_a_router_that_asks_fewer_than_our_policy_is_found_where_its_rules_are_ours(rules_at: int, holds: bool) -> None:
    """It left the limit's reason away and asked the wrong queue. After a change of rules nobody can tell."""
    approvals = [{"queue": "brand", "people": 1, "decide_by": "2026-11-21T07:25:00.140Z"}]
    theirs = msgspec.convert(approvals, tuple[Any, ...])
    case = ONE.with_(routed_changes={"approvals": theirs}, overwrite={"approvals": theirs}, rules_at=rules_at)
    editor = case.with_(by=[("ed", "editor")])

    assert (doubt(editor) == "") is holds


def test_a_queue_that_the_policy_has_no_more_is_its_default_queue() -> None:
    approvals = ({"queue": "gone", "people": 1, "decide_by": "2026-11-21T07:25:00.140Z"},)
    case = ONE.with_(routed_changes={"approvals": approvals}, overwrite={"approvals": approvals}, rules_at=6)

    assert "gone asks for 1 people, 0" in doubt(case)
    assert doubt(case.with_(by=[("sue", "senior")])) == ""


def test_where_the_router_names_no_queue_it_is_that_of_the_class() -> None:
    case = ONE.with_(routed_changes={"approvals": ()}, overwrite={"approvals": ()}, rules_at=6)

    assert doubt(case) == ""
    assert "trading asks for 1 people, 0" in doubt(case.with_(by=[("sue", "senior")]))


def test_queues_that_escalate_in_a_circle_have_an_end() -> None:
    policy = make_policy(queues={"manager": {"next": "trading"}})

    assert doubt(Case(policy=policy)) == ""
    assert "0 with a role" in doubt(Case(policy=policy, by=[("ed", "editor")]))


# --- batches ----------------------------------------------------------------------------------------------------------

MEMBERS = 13
PLACE = 9
POST = Case(parts={**post("A quiet day."), "type": "post.publish", "batch": {"id": "b-7", "size": MEMBERS, "index": 9}})
LEAVES = [bytes([n]) * 32 for n in range(MEMBERS)]
LEAVES[PLACE] = bytes.fromhex(POST.hash)
TREE = Tree(LEAVES)
PROOF = Proof(size=MEMBERS, index=PLACE, path=tuple(beside.hex() for beside in TREE.path(PLACE)))


def release(**fields: Any) -> Any:
    parts = {"by": "ed", "role": "editor", "batch": "acme/acc-17/b-7", "size": MEMBERS, "root": TREE.root.hex()}
    return words(make=BatchRelease, **parts | fields)


@pytest.mark.behaviour("E3")
def test_the_release_of_a_batch_is_the_approval_of_each_of_its_members() -> None:
    assert doubt(POST.with_(said=[release()], proof=PROOF)) == ""


@pytest.mark.parametrize(
    ("proof", "words_"),
    [
        (None, "there is no proof"),
        (msgspec.structs.replace(PROOF, index=PLACE - 1), "does not lead to its root"),
        (msgspec.structs.replace(PROOF, index=MEMBERS), "place 13 of 13"),
        (msgspec.structs.replace(PROOF, index=-1), "place -1 of 13"),
        (msgspec.structs.replace(PROOF, size=MEMBERS + 1), "the release for 13"),
        (msgspec.structs.replace(PROOF, path=PROOF.path[:-1]), "does not lead to its root"),
        (msgspec.structs.replace(PROOF, path=(*PROOF.path, "00" * 32)), "does not lead to its root"),
        (msgspec.structs.replace(PROOF, path=("zz", *PROOF.path[1:])), "not in hexadecimal"),
        (msgspec.structs.replace(PROOF, path=("00" * 31, *PROOF.path[1:])), "does not lead to its root"),
        (msgspec.structs.replace(PROOF, path=PROOF.path[::-1]), "does not lead to its root"),
    ],
    ids=repr,
)
def test_a_proof_that_does_not_lead_to_the_signed_root_proves_nothing(proof: Proof | None, words_: str) -> None:
    assert words_ in doubt(POST.with_(said=[release()], proof=proof))


@pytest.mark.parametrize("fields", [{"root": "0" * 64}, {"size": MEMBERS + 1}, {"size": 1}], ids=str)
def test_the_release_of_another_batch_releases_nothing_here(fields: dict[str, Any]) -> None:
    assert "verdict 0 of ed" in doubt(POST.with_(said=[release(**fields)], proof=PROOF))


@given(st.integers(0, len(PROOF.path) - 1), st.integers(0, 255))
def test_any_bit_flipped_in_a_proof_is_found(step: int, bit: int) -> None:
    number = int(PROOF.path[step], 16) ^ (1 << bit)
    path = (*PROOF.path[:step], f"{number:064x}", *PROOF.path[step + 1 :])

    assert "does not lead" in doubt(POST.with_(said=[release()], proof=msgspec.structs.replace(PROOF, path=path)))


def test_one_who_approved_a_drawn_member_and_released_its_batch_is_one_person() -> None:
    policy = make_policy(classes={"post.publish": {"people": 2}})
    case = Case(policy=policy, parts=POST.parts)
    both = [words(by="ed", role="editor", hash=case.hash), release()]

    assert "brand asks for 2 people, 1 with" in doubt(case.with_(said=both, proof=PROOF))
    assert doubt(case.with_(said=[words(by="eve", role="editor", hash=case.hash), release()], proof=PROOF)) == ""


# --- any bytes --------------------------------------------------------------------------------------------------------


@given(st.binary(max_size=300), st.booleans())
def test_no_bytes_at_all_raise(value: bytes, sealed: bool) -> None:
    record = sealed_record(value) if sealed else FakeRecord(value, topic=EXECUTE)

    assert isinstance(read_approved(EXECUTE, record.value, record.headers, DESK_KEYS), Undecodable)


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
_MEMBERS = [member.encode_name for member in msgspec.structs.fields(Approved) if member.name != "action"]


@given(st.dictionaries(st.sampled_from(_MEMBERS), _JSON, min_size=1, max_size=3))
def test_no_member_of_any_kind_raises_or_widens_what_people_approved(members: dict[str, Any]) -> None:
    found = read(ONE, resealed(VALUE, **members))

    if isinstance(found, Vouched) and not found.unsealed:
        good = read(ONE, sealed_record(VALUE))
        assert isinstance(good, Vouched)
        unlike = _but_the_desks_own(found.decision) | {"proof": None}
        assert unlike == _but_the_desks_own(good.decision)
