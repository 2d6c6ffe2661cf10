"""Reading a declared field of an action: present, absent, or an error that makes the answer stricter."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from decimal import Decimal
from operator import attrgetter
from typing import Any, Final

from hitl_stream.core.action import Action, entity_of
from hitl_stream.core.policy.model import Currency, FieldType, Policy, exact
from hitl_stream.core.quantity import UndefinedError, in_currency

Facts = Mapping[str, Any]
"""What executor and connectors last saw on the platform, by field name, for one entity."""
NO_FACTS: Final[Facts] = {}


class FieldError(ValueError):
    """A field that is there but cannot be what the policy says it is."""


class Absent:
    """The value of a field that an action does not have."""

    def __repr__(self) -> str:
        return "absent"


ABSENT: Final = Absent()
Read = Callable[[Action, Facts], Any]


def reader(path: str, policy: Policy) -> Read:
    """Return a function that reads a declared field with its declared type, or `ABSENT`, or raises `FieldError`.

    Money comes as (amount in the policy's currency, rate used or None).
    """
    get = raw_reader(path)
    kind = policy.fields[path].type
    convert = _converter(path, kind, policy.currency, policy.rates)
    plain = {"text": str, "flag": bool}.get(kind)

    def read(action: Action, facts: Facts) -> Any:
        value = get(action, facts)
        return value if value is ABSENT or type(value) is plain else convert(value)

    return read


def raw_reader(path: str) -> Read:
    """Return a function that finds a path's value as the bytes had it; null counts as absent."""
    root, _, rest = path.partition(".")
    keys = rest.split(".")
    if root == "context":
        return lambda action, facts: ABSENT if not action.context else _walk(action.context, keys)
    if root == "facts":
        return lambda action, facts: ABSENT if not facts else _walk(facts, keys)
    if root == "entity":
        return lambda action, facts: _or_absent(getattr(entity_of(action), rest or "account", None))
    if not rest:
        find = attrgetter(path)
        return lambda action, facts: find(action) or ABSENT
    parts = path.split(".")
    return lambda action, facts: _attributes(action, parts)


def _walk(value: Any, keys: list[str]) -> Any:
    for key in keys:
        if not isinstance(value, Mapping) or key not in value:
            return ABSENT
        value = value[key]
    return _or_absent(value)


def _attributes(value: Any, names: list[str]) -> Any:
    for name in names:
        value = getattr(value, name, None)
        if value is None:
            return ABSENT
    return ABSENT if value in ("", ()) else value


def _or_absent(value: Any) -> Any:
    return ABSENT if value is None else value


def _converter(path: str, kind: FieldType, currency: Currency, rates: Mapping[str, Decimal]) -> Callable[[Any], Any]:
    def money(value: Any) -> tuple[Decimal, Decimal | None]:
        if not isinstance(value, Mapping) or not {"amount", "currency"} <= value.keys():
            raise FieldError(f"{path} is not money: it needs amount and currency")
        try:
            return in_currency(exact(value["amount"]), value["currency"], currency, rates)
        except (UndefinedError, ValueError, TypeError) as error:
            raise FieldError(f"{path}: {error}") from None

    def number(value: Any) -> Decimal:
        try:
            return exact(value)
        except ValueError as error:
            raise FieldError(f"{path}: {error}") from None

    def instance(wanted: type, name: str) -> Callable[[Any], Any]:
        def check(value: Any) -> Any:
            if not isinstance(value, wanted):
                raise FieldError(f"{path} is {type(value).__name__}, the policy declares it as {name}")
            return value

        return check

    def names(value: Any) -> tuple[str, ...]:
        if not isinstance(value, list | tuple) or not all(isinstance(item, str) for item in value):
            raise FieldError(f"{path} is not a list of texts")
        return tuple(value)

    converters: dict[FieldType, Callable[[Any], Any]] = {
        "money": money,
        "number": number,
        "text": instance(str, "text"),
        "flag": instance(bool, "flag"),
        "list": names,
    }
    return converters[kind]
