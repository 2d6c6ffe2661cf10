"""Checks of content that a gate is made of. Each says nothing, or what it saw and what it allows.

A text that is absent cannot be judged: it fails every validator but those that look for something forbidden. What a
worker process judges (sentiment, plugins) reaches a validator as a value, so that the decision stays pure.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import assert_never

from msgspec import Struct

from hitl_stream.core.action import Action
from hitl_stream.core.fields import ABSENT, Facts, Read, reader
from hitl_stream.core.policy.model import (
    TEXT_LENGTH_MAX,
    Contains,
    Forbid,
    Length,
    Mentions,
    Plugin,
    Policy,
    Sentiment,
    Validator,
)


class Fault(Struct, frozen=True):
    """A plugin that raised, overran its time or died, and how."""

    why: str


SHOWN_LENGTH_MAX = 100
"""So much of a hit is shown; a pattern such as `.+` would quote the whole text, once for each pattern."""
Verdict = float | Fault
Verdicts = Mapping[str, Verdict]
"""What the worker process said of one action, by validator id."""


class Finding(Struct, frozen=True):
    """A failed check: what was seen, and what is allowed."""

    saw: str
    limit: str


class PluginError(ValueError):
    """A plugin gave no verdict; the answer is to escalate, whatever the validator's own `then`."""


Check = Callable[[Action, Facts, Verdicts], Finding | None]


def plugin_of(validator: Validator) -> str | None:
    """Name the plugin that must judge the text beforehand, or None."""
    if isinstance(validator, Sentiment):
        return "sentiment"
    return validator.name if isinstance(validator, Plugin) else None


def checker(name: str, validator: Validator, policy: Policy) -> Check:
    """Compile one validator. The check may raise `FieldError` or `PluginError`; the caller escalates."""
    read = reader(validator.field, policy)
    match validator:
        case Length():
            return _length(validator, read, policy)
        case Contains():
            return _contains(validator, read, policy)
        case Mentions():
            return _search(read, [rf"(?<!\w){re.escape(term)}(?!\w)" for term in validator.terms], re.IGNORECASE)
        case Forbid():
            return _search(read, list(validator.patterns), 0)
        case Sentiment() | Plugin():
            return _verdict(name, plugin_of(validator) or name, float(validator.min), read)
    assert_never(validator)


def _length(spec: Length, read: Read, policy: Policy) -> Check:
    (by_path, by), *_ = spec.max_by.items() if spec.max_by else [("", {})]
    read_by = reader(by_path, policy) if by_path else None

    def check(action: Action, facts: Facts, verdicts: Verdicts) -> Finding | None:
        text = read(action, facts)
        if text is ABSENT:
            return Finding("absent", "a text")
        count = len(text)
        if spec.under is not None and count >= spec.under:
            return Finding(f"{count} characters", f"under {spec.under}")
        if spec.max is not None and count > spec.max:
            return Finding(f"{count} characters", f"at most {spec.max}")
        if spec.min is not None and count < spec.min:
            return Finding(f"{count} characters", f"at least {spec.min}")
        if read_by is not None:
            value = read_by(action, facts)
            if value not in by:
                return Finding(f"{by_path} {value}", f"one of {', '.join(by)}")
            if count > by[value]:
                return Finding(f"{count} characters", f"at most {by[value]} on {value}")
        return None

    return check


def _contains(spec: Contains, read: Read, policy: Policy) -> Check:
    read_wanted = reader(spec.value_of, policy) if spec.value_of else None

    def check(action: Action, facts: Facts, verdicts: Verdicts) -> Finding | None:
        text = read(action, facts)
        wanted = list(spec.terms)
        if read_wanted is not None:
            value = read_wanted(action, facts)
            if value is ABSENT or not value.strip():
                return Finding("absent", f"a value of {spec.value_of}")
            wanted.append(value)
        if text is ABSENT:
            return Finding("absent", "a text")
        folded = text.casefold()
        missing = [term for term in wanted if term.casefold() not in folded]
        return Finding("not found", ", ".join(missing)) if missing else None

    return check


def _search(read: Read, patterns: list[str], flags: int) -> Check:
    compiled = [re.compile(pattern, flags) for pattern in patterns]

    def check(action: Action, facts: Facts, verdicts: Verdicts) -> Finding | None:
        text = read(action, facts)
        if text is ABSENT:
            return None
        if len(text) > TEXT_LENGTH_MAX:
            return Finding(f"{len(text)} characters", f"at most {TEXT_LENGTH_MAX} can be searched")
        found = [hit[0][:SHOWN_LENGTH_MAX] for pattern in compiled if (hit := pattern.search(text))]
        return Finding(", ".join(found), "none of it") if found else None

    return check


def _verdict(name: str, plugin: str, least: float, read: Read) -> Check:
    def check(action: Action, facts: Facts, verdicts: Verdicts) -> Finding | None:
        if read(action, facts) is ABSENT:
            return Finding("absent", "a text")
        verdict = verdicts.get(name)
        if verdict is None:
            raise PluginError(f"{plugin}: no verdict")
        if isinstance(verdict, Fault):
            raise PluginError(f"{plugin}: {verdict.why}")
        # `not >=`, so that a verdict that is not a number fails too.
        return None if verdict >= least else Finding(f"{verdict:.2f}", f"at least {least:g}")

    return check
