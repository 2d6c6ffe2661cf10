"""A command under one id: how its records are found again, and which of them counts."""

from __future__ import annotations

from functools import partial

from hitl_stream.core.commands import Engage
from hitl_stream.core.events import Mode, Rejection
from hitl_stream.lane.once import FindingLog, Once
from support.signed import ANA, CLUSTER, FIRST, MALLORY, NOW_MS, TRUST, claims, signed

HALT = partial(Engage, scope=("campaign:cmp-7",), mode=Mode.HALT)


def once(*issued: int) -> Once:
    """Return a command that was made once for each time of issue."""
    made = Once(ANA, HALT)
    for iat in issued:
        made(**claims(ANA, iat=iat))
    return made


def log(made: Once, *values: bytes, at_ms: int = NOW_MS) -> FindingLog:
    found = FindingLog(CLUSTER, TRUST, made.made.keys())
    for offset, value in enumerate((FIRST, *values)):
        found.take(offset, at_ms, value)
    return found


def test_however_often_it_is_made_it_has_one_id_and_is_known_by_its_bytes():
    made = once(NOW_MS // 1000, NOW_MS // 1000 + 1)

    assert {command.jti for command in made.made.values()} == {made.jti}
    assert len(made.made) == 2
    assert made.audience == CLUSTER
    for value, command in made.made.items():
        again = partial(Engage, scope=command.scope, mode=command.mode)
        assert signed(ANA, again, jti=made.jti, iat=command.iat) == value


def test_before_it_is_made_it_is_meant_for_nobody():
    assert once().audience == ""


def test_the_record_that_counts_is_the_verdict_whatever_else_stands_there():
    made = once(NOW_MS // 1000 - 10_000, NOW_MS // 1000)
    late, good = made.made
    other = signed(ANA, HALT)
    found = log(made, late, other, good, good)

    assert [(place.epoch, place.why) for place in found.places] == [
        (1, Rejection.EXPIRED), (3, None), (4, Rejection.REPLAYED)
    ]  # fmt: skip
    verdict = found.verdict()
    assert verdict is not None
    assert (verdict.epoch, verdict.why) == (3, None)


def test_where_none_counts_the_newest_says_why():
    made = once(NOW_MS // 1000 - 10_000, NOW_MS // 1000 + 10_000)
    verdict = log(made, *made.made).verdict()
    assert verdict is not None
    assert (verdict.epoch, verdict.why) == (2, Rejection.EARLY)


def test_where_it_does_not_stand_there_is_no_verdict():
    assert log(once(NOW_MS // 1000), signed(ANA, HALT), signed(MALLORY, HALT)).verdict() is None
