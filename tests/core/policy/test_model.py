"""What a policy file may say, field by field."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from hitl_stream.core.policy.model import (
    DURATION_MS_MAX,
    ActionClass,
    Bands,
    Contains,
    Defaults,
    Gate,
    Length,
    Match,
    Policy,
    Queue,
    Weights,
    duration_ms,
    exact,
)

GATE = {"classes": ["c"], "validators": ["v"], "state": "observe", "owner": "o"}


@pytest.mark.parametrize(
    ("text", "milliseconds"),
    [("250ms", 250), ("90s", 90_000), ("15m", 900_000), ("1h", 3_600_000), ("2d", 172_800_000), (5, 5), ("0s", 0)],
)
def test_a_duration_is_a_number_and_its_unit(text: object, milliseconds: int) -> None:
    assert duration_ms(text) == milliseconds


@pytest.mark.parametrize("text", ["15", "m", "1.5h", "-1h", "1 h", "1h\n", "1w", True, None, 1.5, "٣h", "9" * 40 + "d"])
def test_what_is_not_a_duration_is_refused_with_an_example(text: object) -> None:
    with pytest.raises(ValueError, match="such as 15m"):
        duration_ms(text)


def test_a_duration_longer_than_anything_is_kept_is_refused() -> None:
    with pytest.raises(ValueError, match="longer than 400 days"):
        duration_ms(DURATION_MS_MAX + 1)


@given(st.decimals(allow_nan=False, allow_infinity=False, min_value=-(10**12), max_value=10**12, places=6))
def test_a_number_keeps_the_digits_that_were_written(number: Decimal) -> None:
    assert str(exact(str(number))) == str(number)


@pytest.mark.parametrize(
    "value", [True, None, "", "x", "nan", "inf", float("inf"), [], "1e31", "1e999999999", "9" * 31]
)
def test_what_is_no_ordinary_number_is_refused(value: object) -> None:
    with pytest.raises(ValueError):
        exact(value)


@pytest.mark.parametrize(
    ("model", "values"),
    [
        (Queue, {"roles": [], "sla": "1h", "owner": "o"}),
        (Queue, {"roles": ["r"], "sla": "0s", "owner": "o"}),
        (Queue, {"roles": ["r"], "sla": "1h"}),
        (Queue, {"roles": ["r"], "sla": "1h", "owner": ""}),
        (ActionClass, {"level": 0}),
        (ActionClass, {"level": 5}),
        (ActionClass, {"level": True}),
        (ActionClass, {"level": 2.5}),
        (ActionClass, {"people": 3}),
        (ActionClass, {"consequence": ["finance"]}),
        (ActionClass, {"auto_max_change": -1}),
        (ActionClass, {"auto_min_confidence": 1.1}),
        (ActionClass, {"auto_max_amount": {"EUR": 1, "USD": 1}}),
        (ActionClass, {"auto_max_amount": {"eur": 1}}),
        (ActionClass, {"auto_max_amount": {"EUR\n": 1}}),
        (ActionClass, {"auto_max_change_per": {"soon": 1}}),
        (ActionClass, {"auto_max_change_per": {"0s": 1}}),
        (ActionClass, {"levl": 2}),
        (Match, {}),
        (Match, {"over": None}),
        (Match, {"in": "abc"}),
        (Bands, {"review": 0.9, "escalate": 0.8}),
        (Weights, {"size": 0, "doubt": 0, "unusual": 0, "missing": 0, "money": 0}),
        (Length, {"kind": "length", "field": "f", "error": "tone"}),
        (Length, {"kind": "length", "field": "f", "error": "tone", "max_by": {"a": {}, "b": {}}}),
        (Contains, {"kind": "contains", "field": "f", "error": "tone"}),
        (Gate, {**GATE, "from": 0}),
        (Gate, {**GATE, "from": "2026-02-30"}),
        (Gate, {**GATE, "from": "20261101"}),
        (Defaults, {"queue": "q", "unusual_over": 0}),
    ],
)
def test_a_value_out_of_its_range_is_refused(model: type[Any], values: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        model.model_validate(values)


@pytest.mark.parametrize("zone", ["Mars/Olympus", "../../etc/passwd", "", "America"])
def test_a_time_zone_is_one_of_the_database(zone: str) -> None:
    with pytest.raises(ValidationError, match="IANA"):
        Policy.model_validate({"time_zone": zone})


@pytest.mark.parametrize("pattern", ["(", "a" * 501, "x{99999999999999999999}"])
def test_a_pattern_that_cannot_run_is_refused(pattern: str) -> None:
    forbid = {"kind": "forbid", "field": "content.text", "error": "tone", "patterns": [pattern]}

    with pytest.raises(ValidationError) as refused:
        Policy.model_validate({"validators": {"v": forbid}})

    assert any(error["loc"][:2] == ("validators", "v") for error in refused.value.errors())


@pytest.mark.parametrize(("written", "read"), [(1, Decimal(1)), (True, True), ("1", "1"), ("true", "true")])
def test_what_a_rule_compares_with_is_what_was_written(written: object, read: object) -> None:
    found = Match.model_validate({"is": written}).is_

    assert found == read
    assert type(found) is type(read)


def test_what_a_class_does_not_say_is_the_stricter_choice() -> None:
    silent = ActionClass()

    assert (silent.level, silent.consequence, silent.canaries, silent.review) == (2, (), True, None)


def test_a_field_may_be_declared_by_its_type_alone() -> None:
    short, long = {"context.a": "text"}, {"context.a": {"type": "text", "redact": True}}
    rest = {
        "policy": "p",
        "defaults": {"queue": "q"},
        "queues": {"q": {"roles": ["r"], "sla": "1h", "owner": "o"}},
        "classes": {"c": {}},
    }

    assert Policy.model_validate({**rest, "fields": short}).fields["context.a"].redact is False
    assert Policy.model_validate({**rest, "fields": long}).fields["context.a"].redact is True
