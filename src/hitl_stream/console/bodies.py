"""What comes in and what goes out over `/api/v1`, as the OpenAPI document describes it.

Unknown members are refused: who misspells `note` learns it. Answers are written by msgspec, so that what stands in a
record comes out as it was written; the models here say what they look like.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StrictBool, StrictStr

from hitl_stream.core.commands import SELECTORS_MAX
from hitl_stream.core.events import Mode
from hitl_stream.core.verdicts import CHANGES_MAX, ERRORS_MAX, QUIZ_ITEMS_MAX

NOTE_LENGTH_MAX = 2_000
NAME_LENGTH_MAX = 200
AGO_MS_MAX = 12 * 3_600_000
"""As long as the receipt of a painted card counts."""
PATTERN = r"^[^\x00-\x1f\x7f]+$"
DIGEST = "^[0-9a-f]{64}$"
RECEIPT = r"^[0-9]{1,15}\.[0-9a-f]{32}$"
JWS = r"^[A-Za-z0-9_-]+\.[A-Za-z0-9_-]*\.[A-Za-z0-9_-]*$"


def _whole(text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError("it holds half of a character (a lone surrogate); expected Unicode text") from None
    return text


def _without_zero(text: str) -> str:
    if "\0" in text:
        raise ValueError("it holds the character 0; expected text")
    return _whole(text)


Word = Annotated[str, Field(min_length=1, max_length=NAME_LENGTH_MAX, pattern=PATTERN), AfterValidator(_whole)]
Note = Annotated[str, Field(max_length=NOTE_LENGTH_MAX), AfterValidator(_without_zero)]
Digest = Annotated[str, Field(pattern=DIGEST)]
Receipt = Annotated[str, Field(pattern=RECEIPT, examples=["1795245000140." + "0" * 32])]
ChosenId = Annotated[str, Field(pattern="^[A-Za-z0-9_-]{8,64}$", examples=["5f0c8a2e-0001"])]
"""A client's own id of a judgement: sent again after a lost answer, it counts once."""
Number = Annotated[float, Field(allow_inf_nan=False, strict=True)]
Setting = StrictBool | Number | Annotated[StrictStr, Field(max_length=65_536), AfterValidator(_without_zero)]


Selector = Annotated[str, Field(min_length=3, max_length=500, pattern="^[a-z-]+:."), AfterValidator(_without_zero)]


class _In(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class _Out(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


# --- in ---------------------------------------------------------------------------------------------------------------


class SignIn(_In):
    """Name and password."""

    name: Word
    password: Annotated[str, Field(min_length=1, max_length=1_024), AfterValidator(_whole)]


class Painted(_In):
    """That a card stands on the page."""

    view: Digest


class Change(_In):
    """One field of the action, by JSON pointer, and its new value."""

    path: Annotated[str, Field(min_length=2, max_length=500, pattern="^/"), AfterValidator(_without_zero)]
    value: Setting


class VerdictAsk(_In):
    """A judgement of an item. `view` and `painted` are those of the card that was judged.

    `ago_ms`: so long ago it was decided, where a client let it rest or could not send it; never before it was painted.
    """

    verdict: Literal["approve", "reject", "change", "escalate"]
    view: Digest
    painted: Receipt
    changes: Annotated[tuple[Change, ...], Field(max_length=CHANGES_MAX)] = ()
    code: Word | None = None
    errors: Annotated[tuple[Word, ...], Field(max_length=ERRORS_MAX)] = ()
    note: Note | None = None
    role: Word | None = None
    id: ChosenId | None = None
    ago_ms: Annotated[int, Field(ge=0, le=AGO_MS_MAX, strict=True)] = 0


class CheckAsk(_In):
    """Changes that somebody thinks of making."""

    changes: Annotated[tuple[Change, ...], Field(max_length=CHANGES_MAX)]


class ReleaseAsk(_In):
    """The release of a batch, over the root that the card names."""

    view: Digest
    painted: Receipt
    role: Word | None = None
    id: ChosenId | None = None


class PairAsk(_In):
    """Which of two outputs is better, as they stood on the page. `ago_ms`: so long ago it was decided."""

    choice: Literal["left", "right", "tie", "both_bad"]
    view: Digest
    painted: Receipt
    id: ChosenId | None = None
    ago_ms: Annotated[int, Field(ge=0, le=AGO_MS_MAX, strict=True)] = 0


class ReverseAsk(_In):
    """Why an action is to be undone; it stands as the rationale of what is proposed."""

    reason: Annotated[
        str, Field(min_length=1, max_length=NOTE_LENGTH_MAX, pattern=r"\S"), AfterValidator(_without_zero)
    ]


class QuizAsk(_In):
    """The answer to question `at` of a quiz, from 0: whether the item may run."""

    quiz: Annotated[str, Field(pattern="^[0-9a-f]{16}$")]
    at: Annotated[int, Field(ge=0, le=QUIZ_ITEMS_MAX, strict=True)]
    approve: StrictBool


class EngageAsk(_In):
    """A kill switch: its scope as selectors such as `campaign:cmp-7`; `global:*` stops everything."""

    scope: Annotated[tuple[Selector, ...], Field(min_length=1, max_length=SELECTORS_MAX)]
    mode: Mode
    reason: Annotated[str, Field(max_length=1_500), AfterValidator(_without_zero)] | None = None


class CommandAsk(_In):
    """A command that was signed elsewhere, with an operator's own key, as a compact JWS."""

    jws: Annotated[str, Field(min_length=1, max_length=1_000_000, pattern=JWS)]


# --- out --------------------------------------------------------------------------------------------------------------


class ProblemBody(BaseModel):
    """What went wrong: `title` what was found and expected, `detail` where, `todo` what to do next."""

    model_config = ConfigDict(extra="allow")
    type: str
    title: str
    status: int
    detail: str
    instance: str
    todo: str


class Session(_Out):
    """A session; `token` is its secret, and is told once."""

    token: str
    until: str
    name: str
    roles: list[str]
    scopes: list[str]


class Me(_Out):
    """Who asks, and for what the token is good. `tenants` null: every one.

    `soon`: classes whose qualification ends within two weeks, the first to end first. `watches`: queues whose reviewers
    they look after.
    """

    name: str
    kind: Literal["person", "service"]
    roles: list[str]
    tenants: list[str] | None
    scopes: list[str]
    fresh: bool
    qualified: dict[str, str]
    soon: list[str]
    watches: list[str]


class Proposed(_Out):
    """Where a proposed action was appended."""

    tenant: str
    action_id: str
    hash: str
    topic: str
    partition: int
    offset: int


class Record(_Out):
    """One record of an action's story."""

    kind: Literal["decision", "closed", "result"]
    at: str
    source: str
    record: dict[str, Any]


class Ended(_Out):
    """An item of an action's story, which has ended."""

    item: str
    state: str
    end: str | None
    queue: str
    opened: str


class Reversal(_Out):
    """What would undo an action: the changes of the proposal of that id, or `why` nothing can, and where it fails.

    `known`: that proposal has come to people, or has ended.
    """

    action_id: str
    known: bool
    changes: list[dict[str, Any]]
    why: str | None
    path: str | None


class Story(_Out):
    """All that became of an action, in order. While people are asked about it, those who decide are told no more.

    `reversal` null: it has no result.
    """

    tenant: str
    action_id: str
    undecided: bool
    items: list[Ended]
    records: list[Record]
    reversal: Reversal | None


class Hit(_Out):
    """An action that was found. `stands`: its end, the status of its result, or what was last said on it.

    `at` is when the newest record of it was written. Nulls, and an empty type: people are still asked about it.
    """

    tenant: str
    action_id: str
    at: str
    type: str
    agent: dict[str, Any] | None
    entity: dict[str, Any] | None
    stands: str | None
    by: list[str]


class Hits(_Out):
    """What a search found, newest first; `more`: there are more than these."""

    hits: list[Hit]
    more: bool
    stale_s: float | None


class Queue(_Out):
    """How full a queue is, and whether the caller decides in it. `sla_s`: so long an item may wait, as a rule."""

    queue: str
    open: int
    oldest: str | None
    money: dict[str, str]
    sla_s: float
    yours: bool
    external: bool


class Queues(_Out):
    """The queues that the caller may know of; `stale_s` is how far behind these figures are, null: nothing read yet."""

    queues: list[Queue]
    stale_s: float | None


class Reason(_Out):
    """Why somebody says no or something else, and the type of error that it is evidence of."""

    code: str
    error: str


class Reasons(_Out):
    """The reasons that the policy knows, in its order; a rejection or a change names one, where there are any."""

    reasons: list[Reason]


class Checked(_Out):
    """What a change would come to. `fault`: why it cannot be made; else `outcome` is how the policy would route it.

    EXECUTE: inside what runs without another person, by the action alone. Nothing is promised.
    """

    fault: str | None
    outcome: Literal["EXECUTE", "REVIEW", "ESCALATE", "HOLD", "REFUSE"] | None
    queues: list[str]
    reasons: list[dict[str, Any]]


class ExceptionType(_Out):
    """An exception type of the policy, and who answers it: `type` null is any that the policy does not name.

    `open` are the items that wait for people because of it, in whatever queue they are by now.
    """

    type: str | None
    queue: str
    owner: str
    sla_s: float
    next: str | None
    open: int
    oldest: str | None
    yours: bool
    external: bool


class ExceptionItem(_Out):
    """Something that could not be carried out, and waits for the caller. `says`: in the platform's words."""

    item: str
    tenant: str
    exception: str
    says: str | None
    type: str
    agent: dict[str, Any]
    entity: dict[str, Any]
    queue: str
    opened: str
    decide_by: str


class Exceptions(_Out):
    """The exceptions, by type, and those that the caller may decide, the most pressing first."""

    types: list[ExceptionType]
    items: list[ExceptionItem]
    more: bool
    stale_s: float | None


class Judged(_Out):
    """What became of a judgement of the caller's own."""

    id: str
    verdict: str
    effect: str
    why: str | None
    appended: str


class Spot(_Out):
    """A place of an action where something was wrong: what stood there before, what was proposed, what was shown.

    Nulls: nothing stood there, or nobody knows what was proposed.
    """

    path: str
    field: str
    before: Any
    proposed: Any
    shown: Any
    unit: str | None


class Lesson(_Out):
    """That an item which the caller has judged was planted, to learn who looks: it never ran, and never can.

    `caught`: they saw it. `error` is the type of what was wrong, which stands in one of `places`.
    """

    caught: bool
    error: str | None
    type: str | None
    places: list[Spot]


class Item(_Out):
    """An item as the caller may see it.

    `state`: open, or judged (the caller has said something on it), or ended. `card` is a JSON text, and `view` its
    SHA-256, which a verdict names. `claimed_until`: until then nobody else is given it. `lesson`: the caller has judged
    it, and it was planted.
    """

    item: str
    state: Literal["open", "judged", "ended"]
    card: str | None
    view: str | None
    claimed_until: str | None
    yours: list[Judged]
    lesson: Lesson | None
    stale_s: float | None


class Rest(_Out):
    """A break that is due, after so many items since then. `paused`: nothing is handed out before `until`."""

    items: int
    paused: bool
    since: str
    until: str


class Next(_Out):
    """Items that the caller holds now, the most pressing first. `rest`: they should have a break; null: not yet."""

    items: list[Item]
    rest: Rest | None
    stale_s: float | None


class Claimed(_Out):
    """A claim on an item; ask for it again before it ends."""

    item: str
    until: str


class PaintedAt(_Out):
    """When a card was painted, and the console's receipt for it, which the verdict carries."""

    painted: str
    receipt: str


class Said(_Out):
    """A judgement that stands on `verdicts`. What it did is told by the item, as soon as the desk has read it."""

    id: str
    topic: str
    partition: int
    offset: int


class Batch(_Out):
    """A batch, its card, and the card's SHA-256. `why` says why the caller cannot release it now."""

    batch: str
    state: str
    card: str
    view: str
    releasable: bool
    why: str | None


class Batches(_Out):
    """The batches of the caller's queues, the newest first."""

    batches: list[Batch]
    stale_s: float | None


class Pair(_Out):
    """A pair to be compared."""

    pair: str
    card: str
    view: str


class NextPair(_Out):
    """The next pair; null: none waits."""

    pair: Pair | None


class Switch(_Out):
    """A kill switch. `effective`: it is proved that nothing in its scope starts any more.

    `state`: EFFECTIVE; CONTAINED (proved but for calls of executors that do not answer); not proved (yet); unknown (no
    control role is heard). `took_ms`: from its append to its proof, where this console saw it.
    """

    epoch: int
    scope: list[str]
    mode: Mode
    by: str
    at: str
    reason: str | None
    source: str
    effective: bool
    state: Literal["EFFECTIVE", "CONTAINED", "not proved", "unknown"]
    took_ms: int | None


class Request(_Out):
    """A release that one holder has asked for; another confirms it between `not_before` and `not_after`."""

    epoch: int
    by: str
    at: str
    epochs: list[int]
    reason: str
    not_before: str
    not_after: str


class Awaited(_Out):
    """An instance that has not acknowledged yet, and since when."""

    instance: str
    since_s: float


class Unproved(_Out):
    """Calls that an executor had open before the command at `epoch`, of which nobody can prove that they are over."""

    epoch: int
    instance: str
    calls: int


class Switches(_Out):
    """What is engaged, up to which command of `control` that is known, and why it may be out of date.

    `heard`: a control role speaks. `requests` are releases that wait for a second holder; `waiting` and `contained` say
    who stands in the way of a proof.
    """

    epoch: int
    effective: int
    missing: str
    heard: bool
    switches: list[Switch]
    requests: list[Request]
    waiting: list[Awaited]
    contained: list[Unproved]


class ControlRole(_Out):
    """A control role that speaks: its newest heartbeat, what it has applied, and up to where it proves."""

    instance: str
    at: str
    epoch: int
    effective: int


class Instance(_Out):
    """What an instance last said of itself. `holds`: its lease holds, so that it may emit; `checked`: its seal is good.

    `epoch` is what it has applied; `open_epoch` by which its oldest open work was decided; `calls` are open at the
    platform.
    """

    instance: str
    role: str
    version: str
    partitions: list[int]
    epoch: int
    open_epoch: int | None
    calls: int
    lease_left_ms: int | None
    checked: bool
    at: str
    holds: bool


class Instances(_Out):
    """Who is heard. `held`: actions held back in the last fifteen minutes; null: no metrics are read."""

    heard: bool
    silent_s: float
    epoch: int
    control: list[ControlRole]
    instances: list[Instance]
    held: float | None


class Scopes(_Out):
    """What a scope could name, by kind: what records were about since the console began, the newest first."""

    scopes: dict[str, list[str]]


class Target(_Out):
    """A process whose metrics are read, and what is wrong with that; an empty text: nothing."""

    target: str
    trouble: str


class SwitchSpan(_Out):
    """From when until when a switch held, in milliseconds since 1970; `until` null: it still does."""

    epoch: int
    scope: list[str]
    mode: Mode
    from_: Annotated[int, Field(alias="from")]
    until: int | None


Series = dict[str, list[float | None]]


class WatchedQueue(_Out):
    """What a monitor says of a queue's reviewers, of none by name. Null: nobody knows.

    `level` is 0 to 3, `caught` the share of planted errors that were objected to, `hurried` that of approvals which
    came too fast to have read, `approved` that of judgements which approve. `rubber_stamp` and `reviewer_unreliable`
    count the alarms since the monitor started.
    """

    queue: str
    level: int
    reviewers: int | None
    rubber_stamp: int
    reviewer_unreliable: int
    caught: float | None
    hurried: float | None
    approved: float | None


class Live(_Out):
    """The points after a time, and each chart's series at them; null: nobody knows.

    `at` and `now` are milliseconds since 1970. `routes` are actions a second by outcome, `approved` the share of the
    judgements of five minutes that approve, `open` items by queue, `oldest` and `lag` seconds, by queue and role.
    """

    now: int
    step_s: float
    kept_s: int
    targets: list[Target]
    at: list[int]
    routes: Series
    approved: list[float | None]
    open: Series
    oldest: Series
    lag: Series
    watched: list[WatchedQueue]
    switches: list[SwitchSpan]


class Appended(_Out):
    """A command that stands on `control`, at this offset."""

    epoch: int
    at: str


class Feedbacks(_Out):
    """What people said of agents' actions. `after` asks for what follows; `more`: there is more already."""

    feedback: list[dict[str, Any]]
    after: str
    more: bool


# --- vigilance --------------------------------------------------------------------------------------------------------


class Qualification(_Out):
    """Until when somebody may claim items of a class. `soon`: it ends within two weeks."""

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)
    class_: Annotated[str, Field(alias="class")]
    until: str
    holds: bool
    soon: bool


class DayCount(_Out):
    """What somebody judged on one day, in UTC, and how much of it they approved."""

    day: str
    items: int
    approved: int


class Canaries(_Out):
    """Planted items that somebody has judged in thirty days, and those where they saw what was wrong.

    Those judged after `until` are not told of yet: until then they count as any other item.
    """

    seen: int
    caught: int
    until: str


class OwnFigures(_Out):
    """The caller's own figures, over their last hundred items; shares from 0 to 1, null: too few to tell.

    `hurried` is the share of their last approvals (`hurried_of` of them, at least `hurried_needs`) that came faster
    than anybody reads. `level`: how closely they are watched, 0 to 3; it is known where `watched` is true.
    """

    days: list[DayCount]
    items: int
    approved: float | None
    median_s: float | None
    hurried: float | None
    hurried_of: int
    hurried_needs: int
    hurried_warn: float
    canaries: Canaries
    watched: bool
    level: int
    qualified: list[Qualification]


class WatchSign(_Out):
    """What was seen of somebody, and in which row of the rules that stands."""

    row: int
    sign: str


class WatchedPerson(_Out):
    """One reviewer of a queue, by pseudonym; `name` is null but where the site tells names.

    `misses`, `rarer` and `oftener` are the sums of rows 2 and 4, `sense` is d' of row 7; null: too few items.
    """

    person: str
    name: str | None
    level: int
    signs: list[WatchSign]
    canaries: int
    hit_rate: float | None
    misses: float
    hurried: float | None
    items: int
    approved: float | None
    rarer: float
    oftener: float
    sense: float | None


class WatchAlert(_Out):
    """What was seen of one person in one queue, or of all of it (`person` null). `page`: what somebody was woken for.

    `text`: what can be done.
    """

    at: str
    person: str | None
    name: str | None
    text: str | None
    row: int
    level: int
    page: str | None


class ReviewedQueue(_Out):
    """How the reviewers of a queue do who judged today or yesterday. `at_levels`: how many are at each level, 0 to 3.

    Of `pairs` of blind second judgements `agreement` said the same. `escaped`: the share of errors among what ran
    without being looked at. Nulls: nobody knows.
    """

    queue: str
    level: int
    at_levels: list[int]
    reviewers: int
    hit_rate: float | None
    hurried: float | None
    approved: float | None
    pairs: int
    agreement: float | None
    escaped: float | None
    people: list[WatchedPerson]
    alerts: list[WatchAlert]


class ReviewedQueues(_Out):
    """The queues whose reviewers the caller may look after. `trouble`: why this may be out of date.

    `limits`: beyond which something is seen, by figure.
    """

    trouble: str
    limits: dict[str, float]
    queues: list[ReviewedQueue]


class QuizClass(_Out):
    """A class that the caller was ever qualified for. `known`: old actions that a quiz could be made of.

    `answered`: so many questions of an open quiz are answered; null: none is open. `again_at`: not before then.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)
    class_: Annotated[str, Field(alias="class")]
    until: str
    holds: bool
    known: int
    needed: int
    answered: int | None
    again_at: str | None


class Quizzes(_Out):
    """The quizzes that the caller can take; `passes`: so many right of so many."""

    classes: list[QuizClass]
    passes: int
    of: int


class Wrong(_Out):
    """What was wrong with an item of a quiz."""

    error: str
    places: list[Spot]


class Missed(_Out):
    """A question that was answered wrongly. `wrong` null: nothing was wrong with it."""

    at: int
    type: str
    entity: dict[str, Any]
    wrong: Wrong | None


class QuizState(_Out):
    """How a quiz stands. open: `card` is asked now, question `at` of `of`. passed, failed: the rest is its result."""

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)
    class_: Annotated[str, Field(alias="class")]
    quiz: str
    of: int
    at: int
    needed: int
    state: Literal["open", "passed", "failed"]
    card: str | None
    view: str | None
    right: int | None
    until: str | None
    again_at: str | None
    missed: list[Missed]


class GateState(_Out):
    """The state of a gate for one class; `agent` null: for every agent version that has none of its own."""

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)
    class_: Annotated[str, Field(alias="class")]
    agent: str | None
    state: Literal["observe", "enforce", "removed"]


class GateEvidence(_Out):
    """What is known of one type of error of one agent version at a gate: `borne` is the share of errors that it bears.

    Of `canaries` planted errors of this type, `caught` were seen. `missing`: what keeps its removal from being offered.
    """

    agent: str
    error: str
    borne: float
    items: int
    errors: int
    canaries: int
    caught: int
    people: int
    e: float
    days: float
    missing: list[str]


class GateRow(_Out):
    """A gate of the policy in force. `protected`: classes that never lose it by a record. `evidence`: what is known.

    Null: the monitor knows nothing of it, or there is none.
    """

    gate: str
    definition: str
    owner: str
    classes: list[str]
    protected: list[str]
    validators: list[str]
    states: list[GateState]
    evidence: list[GateEvidence] | None


class Gates(_Out):
    """The gates of the policy in force, and what it takes to remove one. `trouble`: why evidence may be out of date."""

    gates: list[GateRow]
    needs: dict[str, float]
    trouble: str
