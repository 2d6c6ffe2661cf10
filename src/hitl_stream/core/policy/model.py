"""The policy file as people write it, validated field by field.

The model says what a file *may* say; what a file *must not* say although it is well-formed (ceilings, dead ends, rules
that rest on claims) is `lint`. Nothing here is read on the hot path: `compile` turns a `Policy` into closures once.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import date
from decimal import Decimal, InvalidOperation
from typing import Annotated, Literal
from zoneinfo import ZoneInfo

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    WithJsonSchema,
    model_validator,
)

PATTERN_LENGTH_MAX = 500
TEXT_LENGTH_MAX = 16_000
"""Patterns run on at most so many characters; longer text is a finding of its own."""

DURATION_MS_MAX = 400 * 86_400_000
"""As long as anything is kept (`verdicts`, `decisions`); a longer time is a slip of the pen."""
EXPONENT_MAX = 30
"""No limit, rate or amount needs more digits; without a bound, 1e999999999 would be a whole number of a gigabyte."""

_DURATION = re.compile(r"([0-9]{1,15})(ms|s|m|h|d)")
_DAY = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")
_UNIT_MS = {"ms": 1, "s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}
_CURRENCY = re.compile(r"[A-Z]{3}")


def duration_ms(text: object) -> int:
    """Read `90s`, `15m`, `1h`, `2d` or `250ms` as milliseconds; an int is milliseconds already."""
    found = _DURATION.fullmatch(text) if isinstance(text, str) else None
    if found is not None:
        duration = int(found[1]) * _UNIT_MS[found[2]]
    elif isinstance(text, int) and not isinstance(text, bool):
        duration = text
    else:
        raise ValueError(f"{_plain(text)} is not a duration; write a number and ms, s, m, h or d, such as 15m")
    if duration > DURATION_MS_MAX:
        raise ValueError(f"{_plain(text)} is longer than {DURATION_MS_MAX // _UNIT_MS['d']} days; write a shorter time")
    return duration


def exact(value: object) -> Decimal:
    """Read a decimal as it is written: a string or a number, never a boolean, always finite."""
    if isinstance(value, bool) or not isinstance(value, str | int | float | Decimal):
        raise ValueError(f"{_plain(value)} is not a number")
    try:
        number = Decimal(str(value))
    except InvalidOperation:
        raise ValueError(f"{_plain(value)} is not a number") from None
    if not number.is_finite():
        raise ValueError(f"{_plain(value)} is not a finite number")
    if number and (abs(number.adjusted()) > EXPONENT_MAX or len(number.as_tuple().digits) > EXPONENT_MAX):
        raise ValueError(f"{_plain(value)} has more than {EXPONENT_MAX} digits; write a number of ordinary size")
    return number


def whole(value: object) -> object:
    """Let everything pass but a boolean, which Python would count as 0 or 1."""
    if isinstance(value, bool):
        raise ValueError(f"{_plain(value)} is not a whole number")
    return value


def _plain(value: object) -> str:
    shown = str(value).lower() if isinstance(value, bool | float | Decimal) else repr(value)
    return shown if len(shown) <= 60 else shown[:57] + "..."


def _day(value: object) -> object:
    """Take a date or its ISO text. A bare number would be read as seconds since 1970."""
    if isinstance(value, date):
        return value
    if isinstance(value, str) and _DAY.fullmatch(value):
        try:
            return date.fromisoformat(value)
        except ValueError:
            pass
    raise ValueError(f"{_plain(value)} is not a date; write year-month-day, such as 2026-11-01")


def _currency(code: str) -> str:
    if not _CURRENCY.fullmatch(code):
        raise ValueError(f"{code!r} is not a currency; write its ISO 4217 code, such as EUR")
    return code


def _zone(name: str) -> str:
    try:
        ZoneInfo(name)
    except (KeyError, ValueError, OSError):
        raise ValueError(f"{name!r} is not a time zone of the IANA database") from None
    return name


def _pattern(text: str) -> str:
    if len(text) > PATTERN_LENGTH_MAX:
        raise ValueError(f"a pattern is at most {PATTERN_LENGTH_MAX} characters, this one is {len(text)}")
    try:
        re.compile(text)
    except (re.error, OverflowError, RecursionError) as error:
        raise ValueError(f"not a regular expression: {error}") from None
    return text


def _field(spec: object) -> object:
    return {"type": spec} if isinstance(spec, str) else spec


Exact = Annotated[Decimal, BeforeValidator(exact)]
Share = Annotated[Decimal, BeforeValidator(exact), Field(ge=0, le=1)]
Whole = Annotated[int, BeforeValidator(whole)]
Day = Annotated[date, BeforeValidator(_day)]
_DURATION_SCHEMA = {"anyOf": [{"type": "string", "pattern": "^[0-9]+(ms|s|m|h|d)$"}, {"type": "integer", "minimum": 0}]}
Milliseconds = Annotated[int, BeforeValidator(duration_ms), Field(ge=0), WithJsonSchema(_DURATION_SCHEMA)]
Currency = Annotated[str, AfterValidator(_currency)]
Money = Annotated[dict[Currency, Exact], Field(min_length=1, max_length=1)]
"""One amount: `{EUR: "10000"}`."""
Key = Annotated[str, Field(min_length=1, max_length=200)]
Pattern = Annotated[str, AfterValidator(_pattern)]
FieldType = Literal["money", "number", "text", "flag", "list"]
Consequence = Literal[
    "client_content", "high_risk", "prospect", "client_reply", "own_content", "record", "financial", "contractual",
    "irreversible", "internal",
]  # fmt: skip
ErrorType = Literal["factual", "tone", "compliance", "limit", "other"]
Then = Literal["review", "escalate", "refuse"]


def _amount_kind(value: object) -> str:
    return "money" if isinstance(value, Mapping) else "number"


def _word_kind(value: object) -> str:
    return "flag" if isinstance(value, bool) else "text" if isinstance(value, str) else "number"


# Tagged, so that what is written decides what it is: 1 is a number and never true, and one slip gives one message.
Amount = Annotated[
    Annotated[Exact, Tag("number")] | Annotated[Money, Tag("money")],
    Discriminator(_amount_kind),
]
Word = Annotated[
    Annotated[str, Tag("text")] | Annotated[bool, Tag("flag")] | Annotated[Exact, Tag("number")],
    Discriminator(_word_kind),
    WithJsonSchema({"type": ["string", "boolean", "number"]}),
]


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Weights(_Model):
    """How much each part of the risk score counts."""

    size: Annotated[Exact, Field(ge=0)] = Decimal(3)
    doubt: Annotated[Exact, Field(ge=0)] = Decimal(2)
    unusual: Annotated[Exact, Field(ge=0)] = Decimal(3)
    missing: Annotated[Exact, Field(ge=0)] = Decimal(1)
    money: Annotated[Exact, Field(ge=0)] = Decimal(1)

    @model_validator(mode="after")
    def _some(self) -> Weights:
        if not self.size + self.doubt + self.unusual + self.missing + self.money:
            raise ValueError("at least one weight must be over zero")
        return self


class Ethical(_Model):
    """Terms whose mere presence in an action's content or rationale is an ethical concern."""

    terms: tuple[Key, ...] = ()


class Defaults(_Model):
    """What holds where a class says nothing."""

    queue: Key
    audit_sample: Share = Decimal("0.01")
    auto_max_change: Annotated[Exact, Field(ge=0)] = Decimal("0.10")
    """For financial classes that name no limit of their own."""
    max_age: Milliseconds = 900_000
    unusual_over: Annotated[Exact, Field(gt=0)] = Decimal(6)
    unusual_window: Annotated[Milliseconds, Field(ge=1_000)] = 900_000
    tier3_amount: Money | None = None


class AgentEntry(_Model):
    """An agent (a trailing `*` matches any rest of the id) and the person who answers for it."""

    owner: Key


class FieldSpec(_Model):
    """A field that rules and validators may read."""

    type: FieldType
    redact: bool = False


class Queue(_Model):
    """Where people work: who may decide, how fast, who owns it, where an escalation goes next."""

    roles: Annotated[tuple[Key, ...], Field(min_length=1)]
    sla: Annotated[Milliseconds, Field(gt=0)]
    owner: Key
    next: Key | None = None
    external: bool = False


class Lot(_Model):
    """A class whose items are reviewed as a batch, complete at the latest after `close_after`."""

    close_after: Annotated[Milliseconds, Field(gt=0)]


class ActionClass(_Model):
    """How far one type of action may go alone. What is not written is the stricter choice."""

    level: Annotated[Whole, Field(ge=1, le=4)] = 2
    consequence: tuple[Consequence, ...] = ()
    auto_max_change: Annotated[Exact, Field(ge=0)] | None = None
    auto_min_confidence: Share | None = None
    auto_max_amount: Money | None = None
    auto_max_change_per: dict[str, Annotated[Exact, Field(ge=0)]] = Field(default_factory=dict)
    max_age: Annotated[Milliseconds, Field(gt=0)] | None = None
    queue: Key | None = None
    evidence: Literal["required", "optional"] = "optional"
    needs: tuple[Key, ...] = ()
    goal: Key | None = None
    batch: Lot | None = None
    review: Literal["all", "above_risk", "edge_cases", "sample", "periodic"] | None = None
    people: Annotated[Whole, Field(ge=1, le=2)] = 1
    tier: Annotated[Whole, Field(ge=1, le=3)] | None = None
    audit_sample: Share | None = None
    second_review: Share | None = None
    canaries: bool = True
    hide_score: bool = False

    @model_validator(mode="after")
    def _windows(self) -> ActionClass:
        for window in self.auto_max_change_per:
            if not duration_ms(window):
                raise ValueError(f"auto_max_change_per: {window!r} is not a window of time; write one such as 1h")
        return self


class Match(_Model):
    """What a rule asks of one field; all that is written must hold. A field that is absent does not match."""

    over: Amount | None = None
    under: Amount | None = None
    is_: Word | None = Field(default=None, alias="is")
    in_: tuple[str, ...] | None = Field(default=None, alias="in")
    not_in: tuple[str, ...] | None = None
    contains: str | None = None

    @model_validator(mode="after")
    def _some(self) -> Match:
        if all(asked is None for asked in (self.over, self.under, self.is_, self.in_, self.not_in, self.contains)):
            raise ValueError("an empty match; write over, under, is, in, not_in or contains")
        return self


class Rule(_Model):
    """A condition over declared fields that makes the answer stricter for the classes it names."""

    id: Key
    classes: Annotated[tuple[Key, ...], Field(min_length=1)]
    match: Annotated[dict[Key, Match], Field(min_length=1)]
    then: Then
    queue: Key | None = None


class _Validator(_Model):
    field: Key
    error: ErrorType
    then: Then = "review"
    queue: Key | None = None


class Length(_Validator):
    """The text has fewer than `under` characters, or at most `max`, or at most what another field's value allows."""

    kind: Literal["length"]
    under: Annotated[Whole, Field(ge=1)] | None = None
    max: Annotated[Whole, Field(ge=0)] | None = None
    min: Annotated[Whole, Field(ge=0)] | None = None
    max_by: dict[Key, dict[str, Annotated[Whole, Field(ge=0)]]] | None = None

    @model_validator(mode="after")
    def _some(self) -> Length:
        if self.under is None and self.max is None and self.min is None and not self.max_by:
            raise ValueError("a length needs under, max, min or max_by")
        if self.max_by is not None and len(self.max_by) != 1:
            raise ValueError("max_by names exactly one field")
        return self


class Contains(_Validator):
    """The text holds the value of another field, or every one of `terms`; case does not matter."""

    kind: Literal["contains"]
    value_of: Key | None = None
    terms: tuple[Key, ...] = ()

    @model_validator(mode="after")
    def _some(self) -> Contains:
        if self.value_of is None and not self.terms:
            raise ValueError("contains needs value_of or terms")
        return self


class Mentions(_Validator):
    """Fails where the text mentions one of `terms` as whole words; case does not matter."""

    kind: Literal["mentions"]
    terms: Annotated[tuple[Key, ...], Field(min_length=1)]


class Forbid(_Validator):
    """Fails where one of `patterns` is found in the text."""

    kind: Literal["forbid"]
    patterns: Annotated[tuple[Pattern, ...], Field(min_length=1, max_length=100)]


class Sentiment(_Validator):
    """Fails where the text's sentiment (−1 to 1) is below `min`."""

    kind: Literal["sentiment"]
    min: Annotated[Exact, Field(ge=-1, le=1)]


class Plugin(_Validator):
    """Fails where the named plugin's verdict (0 to 1) on the field is below `min`."""

    kind: Literal["plugin"]
    field: Key = "content.text"
    name: Key
    min: Share

    @property
    def plugin(self) -> str:
        return self.name


Validator = Annotated[Length | Contains | Mentions | Forbid | Sentiment | Plugin, Field(discriminator="kind")]


class Baseline(_Model):
    """What the work was like before, recorded so that gains are measured and not asserted."""

    error_ratio: Share | None = None
    minutes_per_item: Annotated[Exact, Field(ge=0)] | None = None
    cost_per_hour: Money | None = None


class Gate(_Model):
    """Validators over classes and a segment: the unit that is measured, enforced, removed.

    `max_error_ratio` says per type of error how large a share of wrong outputs is borne: evidence that it is smaller
    must be there before the gate can be removed. What is not written is `core.policy.rules.ERROR_RATIO_MAX`.
    """

    classes: Annotated[tuple[Key, ...], Field(min_length=1)]
    validators: Annotated[tuple[Key, ...], Field(min_length=1)]
    segment: dict[Key, Match] = Field(default_factory=dict)
    state: Literal["observe", "enforce", "removed"]
    owner: Key
    from_: Day = Field(alias="from")
    until: Day | None = None
    baseline: Baseline | None = None
    max_error_ratio: dict[ErrorType, Share] = Field(default_factory=dict)


class Bands(_Model):
    """Risk scores from which an action is reviewed or escalated."""

    review: Share = Decimal("0.50")
    escalate: Share = Decimal("0.80")

    @model_validator(mode="after")
    def _order(self) -> Bands:
        if self.review > self.escalate:
            raise ValueError(f"bands.review {self.review} lies over bands.escalate {self.escalate}")
        return self


class Policy(_Model):
    """A whole policy file."""

    policy: Key
    currency: Currency = "EUR"
    rates: dict[Currency, Annotated[Exact, Field(gt=0)]] = Field(default_factory=dict)
    time_zone: Annotated[str, AfterValidator(_zone)] = "UTC"
    defaults: Defaults
    agents: dict[Key, AgentEntry] = Field(default_factory=dict)
    fields: dict[Key, Annotated[FieldSpec, BeforeValidator(_field)]] = Field(default_factory=dict)
    exceptions: dict[Key, Key] = Field(default_factory=dict)
    reasons: dict[Key, ErrorType] = Field(default_factory=dict)
    queues: Annotated[dict[Key, Queue], Field(min_length=1)]
    classes: Annotated[dict[Key, ActionClass], Field(min_length=1)]
    rules: tuple[Rule, ...] = ()
    validators: dict[Key, Validator] = Field(default_factory=dict)
    gates: dict[Key, Gate] = Field(default_factory=dict)
    bands: Bands = Bands()
    weights: Weights = Weights()
    ethical: Ethical = Ethical()


ROOTS: Mapping[str, FieldType] = {
    "tenant": "text", "destination": "text", "rationale": "text", "confidence": "number",
    "agent.id": "text", "agent.version": "text", "entity.account": "text", "entity.campaign": "text",
    "content.text": "text", "content.language": "text", "content.platform": "text", "content.source": "text",
}  # fmt: skip
"""Paths outside `context.` and `facts.` that a policy may declare, with the only type each can have."""
