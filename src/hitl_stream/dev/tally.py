"""What `hitl demo` saw: actions in, answers out, how long between them, and why some did not simply run.

Pure: records in, numbers out. It counts what stands in the topics, committed, and asks nobody else.
"""

from __future__ import annotations

from array import array
from collections import Counter, deque
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Protocol

import msgspec
import orjson
from msgspec import Struct

from hitl_stream.core.escape import escaped
from hitl_stream.dev.people_tally import People
from hitl_stream.wire.records import ERROR_HEADER, SOURCE_HEADER, VIA_HEADER, WHY_HEADER, header

RECOMMEND = "RECOMMEND"
DEAD = "DEAD"
DESK = "desk"
ACTIONS, VERDICTS = "actions", "verdicts"
"""How the topics are called that dead letters come from, behind any prefix."""
OUTCOMES = ("EXECUTE", "REVIEW", "ESCALATE", "HOLD", "REFUSE", RECOMMEND)
NOTICES_MAX = 10
CANDIDATES_MAX = 200
"""Kinds of notice remembered between two looks; there are some forty."""
LATENCY_MS_MAX = 60_000
"""Slower answers are counted here: nothing that old is admitted in the demo."""
RATE_SECONDS = 3.0
"""Rates and latencies on the screen are those of the last seconds."""
PLACE_LENGTH_MAX = 22
OTHER = "other types"
STRICTNESS = {"EXECUTE": 0, "REVIEW": 1, "ESCALATE": 2, "HOLD": 3, "REFUSE": 4}


class Record(Protocol):
    """What is needed of a consumed record."""

    @property
    def key(self) -> bytes | None: ...
    @property
    def value(self) -> bytes | None: ...
    @property
    def headers(self) -> Sequence[tuple[str, bytes]]: ...


class _Place(Struct):
    account: str | None = None
    campaign: str | None = None


class _Leg(Struct):
    entity: _Place


class _Proposal(Struct):
    proposed_at: str
    changes: tuple[_Leg, ...] = ()


class _Row(Struct):
    rule: str
    saw: str
    outcome: str
    limit: str | None = None
    queue: str | None = None
    counts: bool = True


class _Parked(Struct):
    by: str


class _Answer(Struct):
    tenant: str
    action_id: str
    type: str
    outcome: str
    entity: _Place
    id: str = ""
    purpose: str = "decide"
    reasons: tuple[_Row, ...] = ()
    why: str | None = None
    parked: _Parked | None = None
    action: _Proposal | None = None
    verdicts: tuple[str, ...] = ()


class _Result(Struct):
    id: str
    status: str
    by: tuple[str, ...] = ()


_decode = msgspec.json.Decoder(_Answer).decode
_decode_result = msgspec.json.Decoder(_Result).decode


class Notice(Struct, frozen=True):
    """One answer that was not simply a yes. `id` is what `hitl explain` takes; empty where there is none."""

    type: str
    place: str
    outcome: str
    why: str
    id: str = ""


class Latency:
    """How long answers took, to the millisecond: publishing (`proposed_at`) to seeing the committed answer."""

    def __init__(self) -> None:
        self._counts = array("Q", bytes(8 * (LATENCY_MS_MAX + 1)))
        self._most = 0
        self.n = 0

    def add(self, ms: int) -> None:
        """Count one answer."""
        slot = min(max(ms, 0), LATENCY_MS_MAX)
        self._counts[slot] += 1
        self._most = max(self._most, slot)
        self.n += 1

    def quantile(self, q: float) -> int | None:
        """Return the smallest number of milliseconds that a share `q` did not exceed; None before there is one."""
        wanted, seen = q * self.n, 0
        for ms in range(self._most + 1) if self.n else ():
            seen += self._counts[ms]
            if seen >= wanted:
                return ms
        return None


class Numbers(Struct, frozen=True):
    """The moving numbers, over the last `RATE_SECONDS`."""

    in_per_s: float
    out_per_s: float
    p50_ms: int | None
    p99_ms: int | None


class Tally:
    """Everything counted so far. `classes` are the policy's; an action of any other type counts as `OTHER`."""

    def __init__(self, classes: Iterable[str]) -> None:
        self.classes = dict.fromkeys(classes)
        self.arrived = 0
        self.moved = 0
        self.audit = 0
        self.exceptions = 0
        """What the platform would not do, handed to people."""
        self.people = People()
        self.answers: Counter[tuple[str, str]] = Counter()
        self.dead: Counter[str] = Counter()
        self.unread = 0
        """Dead letters of other topics than that of the actions: what no reader could read of what it was sent."""
        self.closed: Counter[str] = Counter()
        self.results: Counter[str] = Counter()
        """What became of platform calls: executed, failed, unresolved."""
        self.ended: Counter[str] = Counter()
        """Why actions ended after the router had let them through, or after they had been parked."""
        self.resumed = 0
        """Parked actions that were decided again."""
        self._origins: set[str] = set()
        """Actions that have their answer; what comes later of one of them is what became of it."""
        self._running: set[str] = set()
        self._early: set[str] = set()
        """Results that were seen before the decision that they belong to: topics are read side by side."""
        self._parked: set[str] = set()
        self.latency = Latency()
        self.notices: deque[Notice] = deque(maxlen=NOTICES_MAX)
        self.example = ""
        """An id to explain: of the first notice that has a person wait, then kept, so that it can be typed."""
        self._candidates: dict[tuple[str, str], Notice] = {}
        self._shown: Counter[tuple[str, str]] = Counter()
        self._recent: deque[int] = deque(maxlen=20_000)
        self._marks: deque[tuple[float, int, int, int]] = deque([(0.0, 0, 0, 0)], maxlen=64)

    @property
    def answered(self) -> int:
        """Return how many actions have their one answer."""
        return self.answers.total() + self.dead.total()

    @property
    def waiting(self) -> int:
        """Return how many were seen in and not yet out."""
        return max(0, self.arrived - self.answered)

    @property
    def running(self) -> int:
        """Return how many may run and have no result yet."""
        return len(self._running)

    @property
    def parked(self) -> int:
        """Return how many lie parked now."""
        return len(self._parked)

    def of_outcome(self) -> dict[str, int]:
        """Return the answers by outcome, all of them present."""
        return {name: sum(n for (_, outcome), n in self.answers.items() if outcome == name) for name in OUTCOMES}

    def of_class(self) -> dict[str, dict[str, int]]:
        """Return the answers by class and outcome, in the policy's order: what stands still can be read."""
        found: dict[str, dict[str, int]] = {name: {} for name in (*self.classes, OTHER)}
        for (name, outcome), n in self.answers.items():
            found[name][outcome] = n
        return found

    def take(self, topic: str, records: Iterable[Record], now_ms: int) -> None:
        """Count records of one topic (its name in our table), received at `now_ms`."""
        if topic == "actions":
            for record in records:
                self._arrives(record)
        elif topic == "dlq":
            for record in records:
                self._dead(record)
        elif topic == "results":
            for record in records:
                result = _decode_result(record.value or b"")
                self.results[result.status] += 1
                self.people.executed += result.status == "executed" and bool(result.by)
                self._ran(result.id)
        elif topic in self.people.topics:
            for record in records:
                self.people.take(topic, record.key, record.value)
        else:
            for record in records:
                self._answer(topic, _decode(record.value or b""), now_ms)

    def look(self, at: float) -> Numbers:
        """Return the moving numbers at `at` (seconds, monotonic); call it a few times a second."""
        self._marks.append((at, self.arrived, self.answered, self.latency.n))
        while len(self._marks) > 2 and at - self._marks[0][0] > RATE_SECONDS:
            self._marks.popleft()
        since, arrived, answered, timed = self._marks[0]
        span = at - since
        recent = sorted(list(self._recent)[-(self.latency.n - timed) :]) if self.latency.n > timed else []
        return Numbers(
            (self.arrived - arrived) / span if span else 0.0,
            (self.answered - answered) / span if span else 0.0,
            _at(recent, 0.50),
            _at(recent, 0.99),
        )

    def start(self, at: float) -> None:
        """Begin the moving numbers at `at`."""
        self._marks.clear()
        self._marks.append((at, self.arrived, self.answered, self.latency.n))

    def notice(self, most: int = 1) -> None:
        """Put up to `most` of what came since the last call on the list, the kinds shown least often first."""
        ranked = sorted(self._candidates, key=lambda kind: self._shown[kind])
        for kind in ranked[:most]:
            self._shown[kind] += 1
            self.notices.appendleft(self._candidates[kind])
        self._candidates.clear()

    def _arrives(self, record: Record) -> None:
        """Count an action: an agent's, one that the router sends home, or one that a person proposes."""
        via = header(record.headers, VIA_HEADER)
        if via is not None and not _is_from_desk(via):
            self.moved += 1
            return
        self.arrived += 1
        self.people.proposed += via is not None

    def _dead(self, record: Record) -> None:
        source = (header(record.headers, SOURCE_HEADER) or b"").decode("utf-8", "replace").rsplit("/", 2)[0]
        if source.endswith(VERDICTS):
            self.people.heard += 1
        if source and not source.endswith(ACTIONS):
            self.unread += 1
            return
        error = (header(record.headers, ERROR_HEADER) or b"?").decode("utf-8", "replace")
        why = (header(record.headers, WHY_HEADER) or b"").decode("utf-8", "replace")
        self.dead[error] += 1
        text, _, place = why.partition(" - at `")  # where it went wrong says more than the rest
        where = f" at {place.rstrip('`')}" if place else ""
        self._propose((DEAD, error), Notice("(unreadable)", "–", DEAD, escaped(f"{error}{where}: {text}")))

    def _answer(self, topic: str, answer: _Answer, now_ms: int) -> None:
        if answer.purpose != "decide":
            self.audit += answer.purpose == "audit"
            self.exceptions += answer.purpose == "exception"
            return
        origin = _origin(answer.id)
        first = origin not in self._origins
        self._stands(topic, answer.id, origin, first)
        if not first:
            self._again(topic, answer)
            return
        if origin:
            self._origins.add(origin)
        name = answer.type if answer.type in self.classes else OTHER
        outcome = RECOMMEND if topic == "recommendations" else answer.outcome
        self.answers[name, outcome] += 1
        if topic == "closed":
            self.closed[answer.why or "?"] += 1
        elif answer.action is not None:
            ms = now_ms - _milliseconds(answer.action.proposed_at)
            self.latency.add(ms)
            self._recent.append(ms)
        if answer.reasons or outcome != "EXECUTE":
            self._remark(name, outcome, answer)

    def _stands(self, topic: str, id_: str, origin: str, first: bool) -> None:
        """Note where an action is now."""
        if topic == "held":
            self._parked.add(origin)
        elif not first:
            self._parked.discard(origin)
        if topic != "execute":
            self._running.discard(id_)
        elif id_ in self._early:
            self._early.discard(id_)
        else:
            self._running.add(id_)

    def _ran(self, id_: str) -> None:
        if id_ in self._running:
            self._running.discard(id_)
        else:
            self._early.add(id_)

    def _again(self, topic: str, answer: _Answer) -> None:
        """Count what became of an action that had an answer before."""
        if topic == "closed":
            self.ended[answer.why or "?"] += 1
        elif answer.verdicts:
            self.people.approved += 1
        elif topic != "held":
            self.resumed += 1

    def _remark(self, name: str, outcome: str, answer: _Answer) -> None:
        rows = sorted(answer.reasons, key=lambda row: (not row.counts, -STRICTNESS.get(row.outcome, 0)))
        first = rows[0].rule if rows else ""
        notice = Notice(
            escaped(answer.type) if name == OTHER else name,
            escaped(_place(answer)),
            outcome,
            escaped(_why(rows)) if rows else "level 1: recommended, never executed",
            f"{answer.tenant}/{answer.action_id}",
        )
        if not self.example and outcome in ("REVIEW", "ESCALATE") and first == "class.auto_max_change":
            self.example = notice.id
        self._propose((name, f"{outcome} {first}"), notice)

    def _propose(self, kind: tuple[str, str], notice: Notice) -> None:
        if len(self._candidates) < CANDIDATES_MAX or kind in self._candidates:
            self._candidates[kind] = notice


def _origin(id_: str) -> str:
    return id_.rpartition("#")[0]


def _is_from_desk(via: bytes) -> bool:
    """Say whether the desk wrote an action for a person; anybody can write this header, and then it says anything."""
    try:
        found = orjson.loads(via)
    except ValueError:
        return False
    return isinstance(found, dict) and found.get("role") == DESK


def _milliseconds(text: str) -> int:
    return int(datetime.fromisoformat(text).timestamp() * 1_000)


def _at(ordered: Sequence[int], q: float) -> int | None:
    return ordered[min(int(q * len(ordered)), len(ordered) - 1)] if ordered else None


def _place(answer: _Answer) -> str:
    campaigns = [leg.entity.campaign for leg in answer.action.changes if leg.entity.campaign] if answer.action else []
    text = "→".join(dict.fromkeys(campaigns)) or answer.entity.campaign or answer.entity.account or "–"
    return text if len(text) <= PLACE_LENGTH_MAX else f"{text[: PLACE_LENGTH_MAX - 1]}…"


def _why(rows: Sequence[_Row]) -> str:
    row = rows[0]
    asked = f" → {row.queue}" if row.queue else ""
    more = f" (+{len(rows) - 1})" if len(rows) > 1 else ""
    return f"{in_words(row.rule, row.saw, row.limit)}{asked}{more}"


# --- reasons in plain words -------------------------------------------------------------------------------------------

_WORDS: Mapping[str, str] = {
    "class.auto_max_change": "magnitude {saw} > {limit}",
    "class.auto_max_change_per": "changes add up to {saw} > {limit}",
    "class.auto_max_amount": "amount {saw} > {limit}",
    "class.auto_min_confidence": "confidence {saw}, needs {limit}",
    "class.level": "level {saw}: a person confirms",
    "class.review": "every one is reviewed",
    "class.undefined": "a type that the policy does not know",
    "confidence.undefined": "confidence {saw}, must be {limit}",
    "magnitude.undefined": "size unknown: {saw}",
    "amount.undefined": "amount unknown: {saw}",
    "unusual": "unusual here: {saw}, limit {limit}",
    "agent.unknown": "agent {saw} is not in the policy",
    "legs.accounts": "between accounts {saw}",
    "move.unbalanced": "what leaves is not what arrives: {saw}",
    "ethical": "ethical concern: {saw}",
    "wrong_signal": "optimises {saw}, goal is {limit}",
    "budget_overrun": "spend {saw} > budget {limit}",
    "band.review": "risk score {saw} ≥ {limit}",
    "band.escalate": "risk score {saw} ≥ {limit}",
    "admission.late": "late: {saw}, at most {limit}",
    "admission.ahead": "proposed in the future: {saw}",
    "admission.expired": "expired before it came",
    "admission.duplicate": "duplicate: {saw}, same bytes",
    "admission.conflict": "same id again, {saw}",
    "window.full": "{saw}",
    "parked.behind": "waits behind {saw}, which is parked",
    "held.expired": "its time ended while it was parked",
    "missing.evidence": "no evidence given",
    "missing.confidence": "no confidence given",
}


def in_words(rule: str, saw: str, limit: str | None) -> str:
    """Say one reason in plain words.

    >>> in_words("class.auto_max_change", "0.28", "0.10")
    'magnitude 0.28 > 0.10'
    """
    if rule in _WORDS:
        return _WORDS[rule].format(saw=_short(saw), limit=_short(limit or ""))
    head, _, name = rule.partition(".")
    match head:
        case "switch":
            return f"switch {name}: {saw} on {limit}"
        case "missing":
            return f"{name} is missing"
        case "flag":
            return f"the agent flagged {saw}"
        case "validator" if saw[:1].isdigit() and limit:
            return f"{name}: {saw}, allowed {limit}"
        case "validator" | "plugin":
            return f"{name}: {saw}"
        case "rule":
            return f"{name}: {saw.removeprefix('context.')}{f', {limit}' if limit else ''}"
    limited = f" > {limit}" if limit is not None else ""
    return f"{name or rule}: {saw}{limited}"


def _short(text: str) -> str:
    """Write milliseconds as people would: `7200124 ms old` is `2 h old`."""
    number, unit, rest = (*text.split(" ", 2), "", "")[:3]
    if unit != "ms" or not number.isdigit():
        return text
    seconds = int(number) / 1_000
    size, short = next(((s, u) for s, u in ((3_600, "h"), (60, "min")) if seconds >= s), (1, "s"))
    return f"{seconds / size:.3g} {short} {rest}".rstrip()
