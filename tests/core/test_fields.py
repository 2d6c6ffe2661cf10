"""A declared field is there with its type, absent, or an error; never something in between."""

from __future__ import annotations

from contextlib import suppress
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hitl_stream.core.fields import ABSENT, FieldError, raw_reader, reader
from support.make import make_action, make_policy, post

POLICY = make_policy(
    fields={
        "context.sum": "money",
        "context.n": "number",
        "context.ok": "flag",
        "context.tags": "list",
        "context.deep.down": "text",
        "facts.spend": "money",
        "agent.id": "text",
        "confidence": "number",
        "entity.campaign": "text",
        "content.language": "text",
    }
)
PATHS = ["context.sum", "context.n", "context.ok", "context.tags", "context.company", "content.text"]
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)


def read(path: str, facts: dict[str, Any] | None = None, **parts: Any) -> Any:
    return reader(path, POLICY)(make_action(**parts), facts or {})


@pytest.mark.parametrize(
    ("path", "parts", "value"),
    [
        ("context.sum", {"context": {"sum": {"amount": "12.50", "currency": "EUR"}}}, (Decimal("12.50"), None)),
        ("context.sum", {"context": {"sum": {"amount": 100, "currency": "USD"}}}, (Decimal("92.00"), Decimal("0.92"))),
        ("context.n", {"context": {"n": "1.20"}}, Decimal("1.20")),
        ("context.n", {"context": {"n": 1.2}}, Decimal("1.2")),
        ("context.ok", {"context": {"ok": False}}, False),
        ("context.tags", {"context": {"tags": ["a", "b"]}}, ("a", "b")),
        ("context.company", {"context": {"company": ""}}, ""),
        ("context.deep.down", {"context": {"deep": {"down": "x"}}}, "x"),
        ("agent.id", {}, "bidder-7"),
        ("entity.campaign", {}, "cmp-204"),
        ("content.text", post("Hi"), "Hi"),
    ],
)
def test_a_field_comes_with_its_declared_type(path: str, parts: dict[str, Any], value: Any) -> None:
    assert read(path, **parts) == value


def test_a_confidence_is_read_as_the_decimal_that_was_written() -> None:
    assert read("confidence", confidence=0.85) == Decimal("0.85")
    assert read("confidence", confidence="0.850") == Decimal("0.850")


@pytest.mark.parametrize(
    ("path", "parts"),
    [
        ("context.n", {}),
        ("context.n", {"context": None}),
        ("context.n", {"context": {}}),
        ("context.n", {"context": {"n": None}}),
        ("context.deep.down", {"context": {"deep": {}}}),
        ("context.deep.down", {"context": {"deep": None}}),
        ("content.text", {}),
        ("content.text", post("")),
        ("content.language", post()),
        ("entity.campaign", {"changes": ...}),
    ],
)
def test_what_is_not_there_or_null_is_absent(path: str, parts: dict[str, Any]) -> None:
    assert read(path, **parts) is ABSENT


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("sum", "12.50"),
        ("sum", 12.5),
        ("sum", {"amount": "1"}),
        ("sum", {"amount": "1", "currency": "CHF"}),
        ("sum", {"amount": "1", "currency": None}),
        ("sum", {"amount": "1", "currency": ["EUR"]}),
        ("sum", {"amount": None, "currency": "EUR"}),
        ("sum", {"amount": True, "currency": "EUR"}),
        ("sum", {"amount": "NaN", "currency": "EUR"}),
        ("sum", {"amount": "1e999999999", "currency": "EUR"}),
        ("n", "many"),
        ("n", True),
        ("n", [1]),
        ("n", {"amount": 1}),
        ("n", "Infinity"),
        ("ok", 1),
        ("ok", "true"),
        ("tags", "a"),
        ("tags", ["a", 1]),
        ("tags", {"a": 1}),
        ("company", 5),
        ("company", ["Acme"]),
    ],
)
def test_a_field_of_another_type_is_an_error_that_names_it(path: str, value: Any) -> None:
    with pytest.raises(FieldError, match=f"context.{path}"):
        read(f"context.{path}", context={path: value})


@given(st.sampled_from(PATHS), JSON)
def test_a_field_is_its_type_absent_or_an_error_whatever_stands_there(path: str, value: Any) -> None:
    root, _, name = path.partition(".")
    action = make_action(context={name: value}) if root == "context" else make_action(**post(str(value)))
    with suppress(FieldError):
        found = reader(path, POLICY)(action, {})
        assert found is ABSENT or isinstance(found, tuple | Decimal | bool | str)


def test_facts_come_from_the_platform_and_not_from_the_action() -> None:
    spend = {"amount": "70", "currency": "EUR"}
    assert read("facts.spend", {"spend": spend}) == (Decimal(70), None)
    assert read("facts.spend", context={"spend": spend}) is ABSENT


@pytest.mark.parametrize(
    ("path", "parts", "there"),
    [
        ("confidence", {}, True),
        ("confidence", {"confidence": ...}, False),
        ("evidence", {}, True),
        ("evidence", {"evidence": []}, False),
        ("entity", {}, True),
        ("entity", {"changes": ...}, False),
        ("destination", {"destination": "google_ads"}, True),
        ("destination", {}, False),
        ("expires_at", {}, False),
    ],
)
def test_what_a_class_may_need_can_be_told_there_from_absent(path: str, parts: dict[str, Any], there: bool) -> None:
    assert (raw_reader(path)(make_action(**parts), {}) is not ABSENT) is there
