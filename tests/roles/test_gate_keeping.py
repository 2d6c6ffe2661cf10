"""What is kept of gates by the pure folds, and what follows from it: when one may go, and when it comes back."""

from __future__ import annotations

import random
import statistics
from collections.abc import Iterator
from typing import Any

import pytest
from msgspec import structs

from hitl_stream.cli.gate_verbs import offered, removal_of
from hitl_stream.cli.rules import InForce
from hitl_stream.core.action import Agent
from hitl_stream.core.commands import DAY_MS
from hitl_stream.core.control import Control, Said
from hitl_stream.core.errors import RefusedError, UsageError
from hitl_stream.core.gate_evidence import KAPPA, Evidence, log_e
from hitl_stream.core.policy.compile import compile_policy
from hitl_stream.core.policy.model import Policy
from hitl_stream.core.policy.rules import GateRecord, Rules, terms_of
from hitl_stream.roles.gate_keeping import (
    FORGET_DAYS,
    KEYS_MAX,
    AtGate,
    Hits,
    decode_hits,
    forgotten,
    gate_of,
    hits_key,
    kappa_by,
    returns,
    watched_after,
    wrong_types,
)
from hitl_stream.roles.monitor_state import LET_GO_MAX, Place
from hitl_stream.wire.desk_records import First, Observation
from support.gates import GATE, SDR, TYPES, OfflineGates, at_gate, looking, planted, removal
from support.make import acme
from support.watching import START_MS

IN_FORCE = InForce(acme(), "acme.yaml")


def policy() -> Policy:
    return acme().policy


def of(**gate: Any) -> Policy:
    """Return the example policy with something else at its gate."""
    plain = policy()
    return plain.model_copy(update={"gates": {**plain.gates, GATE: plain.gates[GATE].model_copy(update=gate)}})


def evidence(found: OfflineGates, person: str = "ana", agent: Agent = SDR) -> dict[str, Evidence]:
    ((_, kept),) = [
        (key, kept)
        for key, kept in found.gates().items()
        if (about := gate_of(key)) and (about.person, about.agent, about.version) == (person, agent.id, agent.version)
    ]
    return kept.evidence


def clean(count: int, **more: Any) -> Iterator[Observation]:
    yield from (at_gate(n=n, **more) for n in range(count))


def missing(found: OfflineGates, gate: str = GATE, agent: Agent = SDR) -> tuple[str, ...]:
    return found.table().of(found.policy, gate, agent, found.now_ms).missing


# --- what is offered --------------------------------------------------------------------------------------------------


@pytest.mark.behaviour("D5")
def test_four_hundred_and_ninety_nine_judged_outputs_are_refused_with_what_is_missing():
    found = OfflineGates(policy()).each(looking()).each(clean(499))

    with pytest.raises(RefusedError, match="499 judged outputs, expected at least 500") as refused:
        offered(IN_FORCE, found.table(), Control(), GATE, SDR, found.now_ms)
    assert all(f"{error}: 499" in str(refused.value) for error in TYPES)
    assert "hitl gates evidence first_line" in str(refused.value)


@pytest.mark.behaviour("D5")
def test_five_hundred_clean_ones_at_five_percent_with_caught_canaries_are_offered_and_signed_with_what_they_rest_on():
    found = OfflineGates(policy()).each(looking()).each(clean(500))

    claims = removal_of(offered(IN_FORCE, found.table(), Control(), GATE, SDR, found.now_ms))
    assert claims["definition"] == terms_of(policy(), GATE).definition
    assert claims["p"] == dict.fromkeys(TYPES, 0.01)
    assert {error: claims["evidence"][error]["items"] for error in TYPES} == dict.fromkeys(TYPES, 500)
    assert all(claims["evidence"][error]["e"] >= 40 for error in TYPES)


@pytest.mark.behaviour("D5")
@pytest.mark.parametrize("error", TYPES)
def test_one_type_of_error_over_its_threshold_is_enough_to_refuse(error: str):
    wrong = (at_gate(n=n, verdict="reject", errors=(error,)) if n % 20 == 0 else at_gate(n=n) for n in range(800))
    found = OfflineGates(policy()).each(looking()).each(wrong)

    assert missing(found)
    assert all(one.startswith(f"{error}: E is") for one in missing(found))


@pytest.mark.behaviour("E12")
def test_without_a_caught_canary_of_a_type_nothing_is_offered():
    found = OfflineGates(policy()).each(looking(types=("factual", "tone"))).each(clean(2_000))

    lacking = missing(found)
    assert any(one.startswith("compliance: no canary was caught") for one in lacking)
    assert all(one.startswith("compliance:") for one in lacking)


@pytest.mark.behaviour("E14")
def test_a_protected_class_is_refused_whatever_the_numbers():
    gate, types = "style", ("compliance", "tone")
    outputs = clean(3_000, gates=(gate,), class_="post.publish")
    found = OfflineGates(policy()).each(looking(each=300, types=types)).each(outputs)

    figures = found.table().of(policy(), gate, SDR, found.now_ms)
    assert all(one.e > 1e6 and not one.missing for one in figures.types)
    with pytest.raises(RefusedError, match=r"post\.publish is of a protected consequence"):
        offered(IN_FORCE, found.table(), Control(), gate, SDR, found.now_ms)


@pytest.mark.behaviour("E14")
def test_a_removed_gate_leaves_the_class_under_its_ceiling_and_its_audits():
    definition = terms_of(policy(), GATE).definition
    gone = Rules(gates={GATE: {SDR: GateRecord("removed", definition)}})
    for name in policy().classes:
        before, after = (compile_policy(policy(), "d", START_MS, rules).of(name) for rules in (Rules(), gone))
        assert (after.level, after.audit_p, after.queue) == (before.level, before.audit_p, before.queue)


def test_fourteen_days_are_counted_from_the_first_judged_output():
    found = OfflineGates(policy()).each(looking(), per_day=1_000_000).each(clean(600), per_day=1_000_000)
    table = found.table()

    lacking = table.of(policy(), GATE, SDR, START_MS + 13 * DAY_MS).missing
    assert len(lacking) == 3
    assert all("days, expected at least 14" in one for one in lacking)
    assert table.of(policy(), GATE, SDR, START_MS + 15 * DAY_MS).missing == ()


def test_a_gate_that_is_gone_already_is_not_asked_for_again_but_one_of_an_older_definition_is():
    found, control = OfflineGates(policy()).each(looking()).each(clean(500)), Control()
    control.gates[GATE, SDR] = Said(7, removal(policy()).change)
    with pytest.raises(UsageError, match="control/7"):
        offered(IN_FORCE, found.table(), control, GATE, SDR, found.now_ms)

    control.gates[GATE, SDR] = Said(7, structs.replace(removal(policy()).change, definition="0" * 64))
    assert offered(IN_FORCE, found.table(), control, GATE, SDR, found.now_ms).missing == ()


def test_evidence_of_several_persons_adds():
    found = OfflineGates(policy()).each(looking("ana")).each(looking("ben"))
    found.each(at_gate("ana" if n % 2 else "ben", n=n) for n in range(500))

    figures = found.table().of(policy(), GATE, SDR, found.now_ms)
    assert (figures.persons, figures.items, figures.missing) == (2, 500, ())
    both = [evidence(found, person)["tone"] for person in ("ana", "ben")]
    assert figures.types[2].e == pytest.approx(2.718281828459045 ** log_e(both), rel=1e-6)


# --- what counts ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("verdict", "more", "wrong"),
    [
        ("approve", {}, ()),
        ("reject", {"errors": ("tone",)}, ("tone",)),
        ("change", {"errors": ("tone", "factual")}, ("factual", "tone")),
        ("reject", {"code": "off_tone"}, ("tone",)),
        ("reject", {"errors": ("other",)}, ()),
        ("reject", {}, TYPES),
        ("reject", {"code": "unheard_of"}, TYPES),
        ("escalate", {}, TYPES),
        ("skip", {}, TYPES),
        ("lapse", {}, TYPES),
    ],
)
def test_of_which_types_a_judgement_counts_as_an_error(verdict: str, more: dict[str, Any], wrong: tuple[str, ...]):
    seen = at_gate(verdict=verdict, **more)
    assert tuple(sorted(wrong_types(seen, TYPES, {"off_tone": "tone"}))) == wrong

    found = OfflineGates(policy()).each([seen])
    assert {error: one.errors for error, one in evidence(found).items()} == {
        error: int(error in wrong) for error in TYPES
    }


@pytest.mark.parametrize("purpose", ["second", "canary", "exception", "quiz"])
def test_what_is_no_judgement_of_an_output_of_its_own_is_no_evidence(purpose: str):
    found = OfflineGates(policy()).each(clean(3)).each(clean(5, purpose=purpose))
    assert {one.items for one in evidence(found).values()} == {3}


def test_a_second_approval_of_the_same_item_is_no_output_more():
    found = OfflineGates(policy()).each(clean(3)).each(clean(5, again=True))
    assert {one.items for one in evidence(found).values()} == {3}


def test_an_audit_is_a_judged_output():
    found = OfflineGates(policy()).each(clean(3, purpose="audit"))
    assert {one.items for one in evidence(found).values()} == {3}


def test_another_version_of_an_agent_begins_at_nothing():
    found = OfflineGates(policy()).each(looking()).each(clean(500))
    newer = Agent("sdr-1", "5")
    found.each(clean(10, agent=newer))

    assert {one.items for one in evidence(found, agent=newer).values()} == {10}
    assert missing(found) == ()
    assert any("10 judged outputs" in one for one in missing(found, agent=newer))


@pytest.mark.parametrize(
    "change",
    [{"max_error_ratio": {"tone": "0.02"}}, {"validators": ("short", "tone")}, {"classes": ("draft.internal",)}],
)
def test_another_definition_or_threshold_of_a_gate_begins_at_nothing(change: dict[str, Any]):
    found = OfflineGates(policy()).each(looking()).each(clean(500))
    plain = policy().model_dump(by_alias=True)
    plain["gates"][GATE] |= change
    other = Policy.model_validate(plain)

    assert found.table().of(other, GATE, SDR, found.now_ms).items == 0
    assert [one for one in found.table().figures(other, found.now_ms) if one.gate == GATE] == []


def test_a_gate_that_the_judgements_policy_does_not_have_is_left_out():
    found = OfflineGates(policy()).each(clean(2, gates=("gone", GATE))).each(clean(2, policy="e" * 64))
    assert [about.gate for key in found.gates() if (about := gate_of(key))] == [GATE]
    assert {one.items for one in evidence(found).values()} == {2}


# --- what people find -------------------------------------------------------------------------------------------------


def hits(found: OfflineGates, person: str = "ana") -> Hits:
    return decode_hits(found.kept[hits_key(person)])


def test_planted_errors_count_by_type_for_a_person_at_every_gate():
    found = OfflineGates(policy()).each([planted(error="tone", gates=("elsewhere",)), planted(caught=False)])
    found.each(clean(1))

    assert hits(found).planted == {"tone": (1, 2)}
    assert (evidence(found)["tone"].caught, evidence(found)["tone"].canaries) == (1, 2)
    assert (evidence(found)["factual"].caught, evidence(found)["factual"].canaries) == (0, 0)


def test_a_canary_that_is_let_go_twice_is_missed():
    away = [at_gate(verdict="skip", purpose="canary", planted="tone", item="c-1")] * 2
    assert hits(OfflineGates(policy()).each(away[:1])).planted == {}
    assert hits(OfflineGates(policy()).each(away)).planted == {"tone": (0, 1)}

    many = (at_gate(verdict="lapse", purpose="canary", planted="tone", item=f"c-{n}") for n in range(LET_GO_MAX + 50))
    assert len(hits(OfflineGates(policy()).each(many)).let_go) == LET_GO_MAX


def test_a_judgement_is_weighed_by_what_was_known_before_it():
    before = OfflineGates(policy()).each(clean(50)).each(looking())
    assert log_e([evidence(before)["tone"]]) == pytest.approx(0.0, abs=1e-9)

    after = OfflineGates(policy()).each(looking()).each(clean(50))
    assert log_e([evidence(after)["tone"]]) > 0


def test_second_judgements_tell_how_hard_real_errors_are_from_fifty_on():
    def seconds(count: int, first: str) -> list[Observation]:
        return [at_gate("ana", "reject", purpose="second", first=First("ben", first)) for _ in range(count)]

    found = OfflineGates(policy()).each(looking()).each(seconds(24, "reject")).each(seconds(25, "approve"))
    assert kappa_by(hits(found)) == KAPPA
    found.each(seconds(1, "change"))
    assert (hits(found).errors, hits(found).found) == (50, 25)
    assert kappa_by(hits(found)) == 0.5


def test_where_real_errors_are_harder_to_find_the_same_outputs_say_less():
    missed = [at_gate("ana", "reject", purpose="second", first=First("ben", "approve")) for _ in range(50)]
    usual = OfflineGates(policy()).each(looking()).each(clean(200))
    harder = (
        OfflineGates(policy())
        .each(looking())
        .each(missed[:25])
        .each([at_gate("ana", "reject", purpose="second", first=First("ben", "reject"))] * 25)
    )
    harder.each(clean(200))
    assert log_e([evidence(harder)["tone"]]) < log_e([evidence(usual)["tone"]])


def test_a_second_who_finds_nothing_says_nothing_of_how_hard_errors_are():
    found = OfflineGates(policy()).each([at_gate("ana", "approve", purpose="second", first=First("ben", "reject"))])
    assert (hits(found).errors, hits(found).found) == (0, 0)


# --- read twice, and limits -------------------------------------------------------------------------------------------


def some(seed: int, count: int) -> list[Observation]:
    """Return judgements of all kinds by three people."""
    chance = random.Random(seed)
    found: list[Observation] = []
    for n in range(count):
        who = chance.choice(("ana", "ben", "cleo"))
        match chance.randrange(5):
            case 0:
                found.append(planted(who, chance.choice(TYPES), caught=chance.random() < 0.9))
            case 1:
                first = First("dan", chance.choice(("approve", "reject")))
                found.append(at_gate(who, "reject", n=n, purpose="second", first=first))
            case _:
                word = chance.choice(("approve", "approve", "reject", "skip"))
                found.append(at_gate(who, word, n=n, gates=chance.choice(((GATE,), (GATE, "tone_own"), ()))))
    return found


def test_what_is_read_twice_counts_once_wherever_it_is_begun_again():
    seen = some(3, 120)
    wanted = OfflineGates(policy()).each(seen).kept
    for start in range(0, 120, 7):
        found = OfflineGates(policy()).each(seen)
        found.offset = start
        assert found.each(seen[start:]).kept == wanted


def test_a_crash_between_two_writes_loses_nothing_and_counts_nothing_twice():
    """A prefix of what was written is there, in its order; what follows is read again from further back."""
    seen = some(4, 80)
    wanted = OfflineGates(policy()).each(seen).kept
    for durable in range(10, 80, 9):
        found = OfflineGates(policy()).each(seen[:durable])
        found.offset = max(0, durable - 10)
        assert found.each(seen[found.offset :]).kept == wanted


def test_what_nobody_has_judged_for_long_is_forgotten_and_the_oldest_where_there_is_too_much():
    assert forgotten({b"old": 0, b"new": FORGET_DAYS}, FORGET_DAYS + 1) == [b"old"]
    many = {str(n).encode(): n % 7 for n in range(KEYS_MAX + 3)}
    gone = forgotten(many, 7)
    assert len(gone) == 3
    assert {many[key] for key in gone} == {0}


def test_an_evidence_of_a_person_is_small():
    found = OfflineGates(policy()).each(looking()).each(clean(600))
    assert max(map(len, found.kept.values())) < 3_000
    assert all(isinstance(kept, AtGate) for kept in found.gates().values())


# --- putting back -----------------------------------------------------------------------------------------------------


def audit(n: int, wrong: bool, error: str = "tone") -> Observation:
    word = "reject" if wrong else "approve"
    return at_gate("ana", word, n=n, purpose="audit", errors=(error,) if wrong else ())


def items_until_back(found: OfflineGates, share: float, seed: int, **p: float) -> int:
    """Return after how many audited outputs with that share of errors a gate is put back."""
    chance, gone = random.Random(seed), removal(found.policy, epoch=seed, **p)
    n = 0
    while not found.audit(audit(n, chance.random() < share), gone, Place(0, n, START_MS)):
        n += 1
    return n + 1


@pytest.mark.parametrize(("threshold", "items"), [(0.05, 78), (0.02, 214), (0.01, 441)])
def test_a_rise_to_three_times_the_threshold_puts_the_gate_back_within_the_stated_items(threshold: float, items: int):
    """Against a share signed at the threshold itself, which is the slowest; the median over seeds, and a tenth more for
    chance."""
    found = OfflineGates(policy())
    counts = [items_until_back(found, 3 * threshold, seed, tone=threshold) for seed in range(81)]
    assert statistics.median(counts) <= 1.1 * items


def test_what_was_clean_when_it_was_signed_comes_back_sooner():
    found = OfflineGates(policy()).each(looking()).each(clean(500))
    signed = removal_of(offered(IN_FORCE, found.table(), Control(), GATE, SDR, found.now_ms))["p"]
    counts = [items_until_back(found, 3 * 0.05, seed, **signed) for seed in range(41)]
    assert statistics.median(counts) <= 78


def test_as_many_errors_as_were_signed_leave_the_gate_where_it_is():
    found, gone = OfflineGates(policy()), removal(policy(), tone=0.05)
    assert not any(found.audit(audit(n, n % 20 == 0), gone, Place(0, n, START_MS)) for n in range(1_000))


def test_one_severe_error_puts_a_gate_back_at_once_and_one_that_nobody_called_so_does_not():
    found = OfflineGates(policy())
    assert found.audit(audit(0, True, "compliance"), removal(policy(), epoch=1), Place(0, 0, 0)) == ("compliance",)
    unnamed = at_gate("ana", "reject", purpose="audit")
    assert found.audit(unnamed, removal(policy(), epoch=2), Place(0, 0, 0)) == ()


@pytest.mark.parametrize("verdict", ["skip", "lapse", "escalate"])
def test_an_audit_that_nobody_answered_is_no_error_of_what_was_let_through(verdict: str):
    found, gone = OfflineGates(policy()), removal(policy(), tone=0.01)
    assert not any(found.audit(at_gate(verdict=verdict), gone, Place(0, n, 0)) for n in range(500))
    (watched,) = found.watched().values()
    assert {one.items for one in watched.relapse.values()} == {0}


def test_a_gate_is_put_back_once():
    gone, terms = removal(policy()), terms_of(policy(), GATE)
    after = watched_after(None, audit(0, True, "compliance"), Place(0, 0, 0), gone, terms)
    assert returns(None, after) == ("compliance",)
    told = type(after)(partition=0, offset=0, relapse=after.relapse, returned=True)
    assert returns(told, watched_after(told, audit(1, True, "compliance"), Place(0, 1, 0), gone, terms)) == ()
