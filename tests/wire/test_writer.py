"""Whatever the template writes decodes to the same values by the definitions in `records`."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hitl_stream.core.action import Action, Agent, Entity
from hitl_stream.core.commands import milliseconds
from hitl_stream.core.events import End, Outcome, Why
from hitl_stream.core.policy.model import Weights
from hitl_stream.core.reasons import Reason
from hitl_stream.core.route import Approval, Route
from hitl_stream.core.score import PARTS, Scale, Score, shares
from hitl_stream.wire import records
from hitl_stream.wire.codec import Decoded, decode_bytes
from hitl_stream.wire.records import ACTION_MARK, decode_closed, decode_decision, head_of, time_text
from hitl_stream.wire.writer import Writer
from support.make import NOW_MS, compiled, make_policy

NASTY = st.sampled_from([
    "", '"', "\\", '\\"', '","action":', ',"action":{}', '"purpose":"decide"', "\x00", "\x1f", "\x7f",
    "\u2028", "\ufffe", "🙂", "é", "</script>", "\\u0000", "{", "}", "\r\n", "a" * 200,
])  # fmt: skip
CHARACTERS = st.characters(exclude_categories=["Cs"])
TEXTS = st.one_of(st.text(CHARACTERS, max_size=30), NASTY, st.lists(NASTY, max_size=4).map("".join))
SOME = st.none() | TEXTS
NAMES = TEXTS.map(lambda text: text[:200] or "x")
REASONS = st.lists(
    st.builds(Reason, TEXTS, TEXTS, SOME, st.sampled_from(Outcome), SOME, SOME, SOME, SOME, st.booleans()), max_size=4
)
UNITS = st.floats(0, 1)
WEIGHTS = st.sampled_from(
    [Weights(), Weights(size=Decimal(0)), Weights(money=Decimal("0.001")), Weights(doubt=Decimal(1000))]
)
APPROVALS = st.lists(
    st.builds(Approval, st.sampled_from(["trading", "manager"]), st.integers(1, 2), st.integers(1, 400 * 86_400_000)),
    max_size=2,
)
RAW = b'{"a":"\xe2\x80\x99 \\" ,\\"action\\":"}'


def action(**parts: Any) -> Action:
    named = {"action_id": "a", "type": "t", "agent": Agent("g"), "proposed_at": None, **parts}
    return Action(**named)


def reason_row(reason: Reason) -> records.ReasonRow:
    return records.ReasonRow(
        rule=reason.rule, saw=reason.saw, outcome=reason.outcome.name, limit=reason.limit, rate=reason.rate,
        queue=reason.queue, gate=reason.gate, error=reason.error, counts=reason.counts,
    )  # fmt: skip


@given(
    st.tuples(TEXTS, NAMES, NAMES, NAMES, TEXTS.map(lambda text: text[:200]), st.none() | NAMES, st.none() | NAMES),
    st.dictionaries(st.sampled_from(["ce_id", "ce_type", "ce_time"]), TEXTS),
    REASONS,
    APPROVALS,
    st.sampled_from(Outcome),
    st.tuples(UNITS, UNITS, UNITS, st.sampled_from([0.0, 1.0]), UNITS),
    WEIGHTS,
    st.tuples(SOME, SOME, SOME),
    st.integers(0, 4_102_444_800_000),
)
@settings(max_examples=300, deadline=None)
def test_what_is_written_decodes_to_equal_values(
    names: tuple[Any, ...],
    ce: dict[str, str],
    reasons: list[Reason],
    approvals: list[Approval],
    outcome: Outcome,
    xs: tuple[float, ...],
    weights: Weights,
    about: tuple[str | None, ...],
    now_ms: int,
) -> None:
    tenant, action_id, kind, agent, version, account, campaign = names
    trace, by, supersedes = about
    policy = compiled(make_policy(weights=weights.model_dump(mode="json")))
    cls = policy.of("bid.adjust")
    score = Scale(weights).score(*xs)
    found = Route(outcome, tuple(reasons), tuple(approvals), score, cls)
    entity = Entity(account, campaign)
    proposed = action(action_id=action_id, type=kind, agent=Agent(agent, version))
    writer = Writer(policy, now_ms, 812, 5511)
    decoded = Decoded(proposed, RAW, "9f" * 32, b"", tuple(ce.items()))

    def same(read: records.Decision | records.Closed) -> None:
        assert (read.tenant, read.action_id, read.type, read.agent) == (tenant, action_id, kind, Agent(agent, version))
        assert (read.entity, read.hash, read.ce) == (entity, "9f" * 32, ce)
        assert (read.outcome, read.level, read.purpose, read.for_) == (outcome.name, 3, "decide", None)
        assert read.reasons == tuple(map(reason_row, reasons))
        assert read.approvals == tuple(
            records.ApprovalRow(each.queue, each.people, time_text(now_ms + each.sla_ms)) for each in approvals
        )
        last = max((each.sla_ms for each in approvals), default=0)
        assert read.execute_by == time_text(now_ms + min(last + 900_000, 15 * 86_400_000))
        assert read.audit == records.AuditRow(0.01)
        assert (read.policy, read.epoch, read.moment, read.trace) == ("d" * 64, 812, time_text(now_ms), trace)
        assert bytes(read.action) == RAW
        assert read.score is not None
        same_score(read.score, score, Scale(weights))

    head, value = writer.decision("hitl.actions/3/88121", decoded, tenant, entity, found, trace, by, supersedes)
    decision = decode_decision(value)
    same(decision)
    assert (decision.id, decision.origin) == ("hitl.actions/3/88121#0", "hitl.actions/3/88121")
    assert (decision.attempt, decision.held, decision.by, decision.supersedes) == (0, 5511, by, supersedes)
    assert head_of(value) == head
    json.loads(value)

    place = "hitl.actions/3/88121"
    ended, value = writer.closed(place, End.REFUSED, Why.CONFLICT, decoded, tenant, entity, found, trace)
    closed = decode_closed(value)
    same(closed)
    assert (closed.id, closed.end, closed.why) == ("hitl.actions/3/88121#0", "refused", "conflict")
    assert (closed.by, closed.code, closed.note) == ((), None, None)
    assert head_of(value) == ended
    json.loads(value)


def same_score(row: records.ScoreRow, score: Score, scale: Scale) -> None:
    """A total to four digits, x and share to a hundredth."""
    assert row.total == pytest.approx(score.total, abs=1e-4)
    expected = {name: (x, weight, share) for name, x, weight, share in shares(score, scale)}
    for part in row.parts:
        x, weight, share = expected.get(part.name, (part.x, part.w, 0.0))
        assert (part.x, part.share) == (pytest.approx(x, abs=0.011), pytest.approx(share, abs=0.011))
        assert part.w == pytest.approx(weight, rel=1e-5)
    if row.total > 0.001:
        missing = [name for name, (*_, share) in expected.items() if name not in {part.name for part in row.parts}]
        assert all(expected[name][2] < 0.5 or expected[name][0] < 0.001 for name in missing)


@given(UNITS, UNITS, UNITS, st.sampled_from([0.0, 1.0]), UNITS, WEIGHTS)
@settings(max_examples=300, deadline=None)
def test_any_score_is_written(a: float, b: float, c: float, d: float, e: float, weights: Weights) -> None:
    policy = compiled(make_policy(weights=weights.model_dump(mode="json")))
    score = Scale(weights).score(a, b, c, d, e)
    found = Route(Outcome.EXECUTE, (), (), score, policy.of("bid.adjust"))
    _, value = Writer(policy, NOW_MS, -1, -1).decision("o", Decoded(action(), RAW, "", b""), "t", Entity(), found)
    row = decode_decision(value).score
    assert row is not None
    same_score(row, score, Scale(weights))
    assert [part.name for part in row.parts] == [name for name in PARTS if name in {part.name for part in row.parts}]


@given(TEXTS, TEXTS, TEXTS)
def test_no_text_in_a_head_can_pretend_to_be_the_action(one: str, two: str, three: str) -> None:
    policy = compiled()
    found = Route(
        Outcome.REFUSE, (Reason(one, two, three, Outcome.REFUSE),), (), Score(0, 0, 0, 0, 0, 0), policy.undefined
    )
    writer = Writer(policy, NOW_MS, -1, -1)
    proposed = action(action_id=one, type=two, agent=Agent(three, one))
    decoded = Decoded(proposed, RAW, "", b"", (("ce_id", two),))
    head, _ = writer.decision("o", decoded, two, Entity(three, one), found, one, two, three)
    assert ACTION_MARK not in head
    assert head.count(b'"purpose":"') == 1


@pytest.mark.parametrize(
    ("ms", "text"),
    [(0, "1970-01-01T00:00:00.000Z"), (NOW_MS, "2026-11-21T07:10:00.140Z"), (999, "1970-01-01T00:00:00.999Z")],
)
def test_a_time_is_written_in_utc_with_milliseconds(ms: int, text: str) -> None:
    assert time_text(ms) == text


@given(st.integers(1_100_000_000_000, 2_147_000_000_000))
def test_a_time_that_was_written_reads_as_the_same_milliseconds(ms: int) -> None:
    value = b'{"action_id":"a","type":"t","agent":{"id":"g"},"proposed_at":"%b"}' % time_text(ms).encode()
    found = decode_bytes(value)
    assert milliseconds(found.action.proposed_at) == ms  # type: ignore[union-attr]
