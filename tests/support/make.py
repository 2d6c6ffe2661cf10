"""Small builders: an action, its bytes, a policy, a record, a router. Each gives a good one; a test changes what it is about.

The action of `make_action` is a bid of bidder-7 that goes from 1.20 to 1.30 and runs alone under `acme.yaml`.
"""  # noqa: E501 - the first line says it all

from __future__ import annotations

import copy
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cache
from importlib.resources import files
from typing import Any

from ruamel.yaml import YAML

from hitl_stream.core.action import Action, entity_of
from hitl_stream.core.fields import NO_FACTS, Facts
from hitl_stream.core.history import recall
from hitl_stream.core.policy.compile import Compiled, compile_policy
from hitl_stream.core.policy.model import Policy
from hitl_stream.core.route import NO_VERDICTS, Route, route
from hitl_stream.core.validators import Fault, Verdict, Verdicts
from hitl_stream.core.window import IdBudget, Reach, Window
from hitl_stream.lane.step import Header, Moment, Output, Result
from hitl_stream.roles.policies import Policies
from hitl_stream.roles.router import Judge, Router, RouterSettings, Source, no_plugins
from hitl_stream.roles.router_state import RouterState
from hitl_stream.wire.codec import Decoded, decode_bytes
from hitl_stream.wire.home import home_of
from hitl_stream.wire.policy_file import LoadedPolicy, parse
from hitl_stream.wire.seal import SealKey
from hitl_stream.wire.topics import TopicSet

NOW_MS = 1_795_245_000_140
"""2026-11-21T07:10:00.140Z: a Saturday on which every gate of `acme.yaml` is active."""
START = datetime(1970, 1, 1, tzinfo=UTC)
SEAL_KEY = SealKey("r1", b"\x01" * 32)
SAMPLE_KEY = SealKey("s1", b"\x02" * 32)
DESK_KEY = SealKey("d1", b"\x03" * 32)
ACTIONS = "hitl.actions"

LINE = "Hello Anna, we saw that Acme grows fast. Shall we talk about your ads on Tuesday?"


def iso(ms: int) -> str:
    """Write milliseconds since the epoch as RFC 3339."""
    return (START + timedelta(milliseconds=ms)).isoformat().replace("+00:00", "Z")


# --- actions ----------------------------------------------------------------------------------------------------------


def change(before: Any = "1.20", after: Any = "1.30", **parts: Any) -> dict[str, Any]:
    """Return one leg; `account`, `campaign`, `field` and `unit` can be given."""
    entity = {"account": parts.pop("account", "acc-17"), "campaign": parts.pop("campaign", "cmp-204")}
    return {"entity": entity, "field": "bid", "before": before, "after": after, "unit": "EUR", **parts}


def action_dict(**parts: Any) -> dict[str, Any]:
    """Return an action as a publisher would write it. A part that is `...` is left out."""
    action = {
        "action_id": "act-1",
        "tenant": "acme",
        "agent": {"id": "bidder-7", "version": "1"},
        "type": "bid.adjust",
        "changes": [change()],
        "confidence": 0.93,
        "proposed_at": iso(NOW_MS - 100),
        "evidence": [{"signal": "cpa_7d", "value": 12.31, "before": 13.02, "better": "down"}],
        **parts,
    }
    return {name: part for name, part in action.items() if part is not ...}


def action_bytes(**parts: Any) -> bytes:
    """Return the bytes of an action, with some parts replaced."""
    return json.dumps(action_dict(**parts), separators=(",", ":"), ensure_ascii=False).encode()


def make_action(**parts: Any) -> Action:
    """Return an action, read by the product's own decoder."""
    decoded = decode_bytes(action_bytes(**parts))
    assert isinstance(decoded, Decoded), decoded
    return decoded.action


def post(text: str = "A quiet day in the park.", **parts: Any) -> dict[str, Any]:
    """Return the parts of an action that would publish a text."""
    platform = parts.pop("platform", "x")
    return {"changes": ..., "entity": {"account": "acc-17"}, "content": {"text": text, "platform": platform}, **parts}


def first_line(text: str = LINE, **parts: Any) -> dict[str, Any]:
    """Return the parts of a first line to a prospect of the segment that has a gate."""
    context = {"segment": "mid-saas", "company": "Acme", **parts.pop("context", {})}
    return {**post(text), "type": "firstline.send", "agent": {"id": "copy-2"}, "context": context, **parts}


# --- policies ---------------------------------------------------------------------------------------------------------


@cache
def acme() -> LoadedPolicy:
    """Return the example policy, as the file says it."""
    text = files("hitl_stream.dev.policies").joinpath("acme.yaml").read_text("utf-8")
    return parse(text, "acme.yaml")


@cache
def _plain_acme() -> Any:
    return YAML(typ="safe").load(acme().text)


def make_policy(**parts: Any) -> Policy:
    """Return the example policy with some parts replaced.

    A part that is a mapping is merged into what the file has (`None` removes an entry); anything else replaces it.
    """
    plain = copy.deepcopy(_plain_acme())
    for name, part in parts.items():
        plain[name] = _merged(plain.get(name), part)
    return Policy.model_validate(plain)


def _merged(old: Any, new: Any) -> Any:
    if not isinstance(old, dict) or not isinstance(new, Mapping):
        return new
    merged = {**old, **{name: _merged(old.get(name), part) for name, part in new.items()}}
    return {name: part for name, part in merged.items() if part is not None}


def gate(*classes: str, validators: Sequence[str], state: str = "enforce", **parts: Any) -> dict[str, Any]:
    """Return a gate that is active on every day of the tests."""
    spec = {"classes": list(classes), "validators": list(validators), "state": state, "owner": "o"}
    return {**spec, "from": "2026-11-01", **parts}


def compiled(policy: Policy | None = None, now_ms: int = NOW_MS) -> Compiled:
    """Return a policy (the example's, where none is given), ready to route with."""
    return compile_policy(policy if policy is not None else acme().policy, "d" * 64, now_ms)


def make_window(reach: Reach | None = None, budget: IdBudget | None = None) -> Window:
    """Return an empty window that reaches back as the example policy asks."""
    return Window(reach if reach is not None else compiled().reach, budget)


def decide(
    action: Action,
    policy: Policy | None = None,
    *,
    facts: Facts = NO_FACTS,
    verdicts: Verdicts | None = None,
    window: Window | None = None,
    now_ms: int = NOW_MS,
) -> Route:
    """Route one action by itself, or in the light of a window. Where no verdict is given, everything is fine."""
    ready = compiled(policy, now_ms)
    draft = (window if window is not None else Window(ready.reach)).draft()
    draft.at(now_ms)
    if verdicts is None:
        verdicts = {job.validator: 1.0 for job in ready.of(action.type).plugins} or NO_VERDICTS
    return route(action, recall(action, action.tenant, draft), ready, facts, verdicts)


def rules(found: Route) -> list[str]:
    """Return the rules that fired and count."""
    return [reason.rule for reason in found.reasons if reason.counts]


def queues(found: Route) -> list[str]:
    """Return who is asked."""
    return [approval.queue for approval in found.approvals]


# --- records and routers ----------------------------------------------------------------------------------------------


@dataclass
class FakeRecord:
    """A record as Kafka would hand it out."""

    value: bytes | None
    offset: int = 0
    partition: int = 0
    timestamp: int = NOW_MS
    topic: str = ACTIONS
    key: bytes | None = None
    headers: Sequence[Header] = ()


def make_router(
    policy: Policy | None = None,
    *,
    partitions: int = 1,
    sources: Mapping[str, Source] | None = None,
    judge: Judge = no_plugins,
    tenant: str = "",
    **parts: Any,
) -> Router:
    """Return a router with throwaway keys; the desk may propose under `DESK_KEY`."""
    settings = RouterSettings(
        topics=TopicSet(partitions=partitions),
        seal_keys={SEAL_KEY.key_id: SEAL_KEY},
        sample_key=SAMPLE_KEY,
        tenant=tenant,
        sources=sources if sources is not None else {},
        proposers={"desk": {DESK_KEY.key_id: DESK_KEY}},
        **parts,
    )
    return Router(settings, Policies(policy if policy is not None else acme().policy, "d" * 64), judge)


def judged(verdict: Verdict) -> Judge:
    """Return a judge that gives every text the same verdict."""
    return lambda jobs: [verdict for _ in jobs]


FAULT = Fault("died")


class Partition:
    """One partition as a lane would run it: batches in, outputs out, changes applied after the commit."""

    def __init__(self, router: Router, budget: IdBudget | None = None) -> None:
        self.router = router
        self.state: RouterState = router.state(budget if budget is not None else IdBudget())

    def abort(self, records: Iterable[FakeRecord], now_ms: int = NOW_MS) -> Result:
        """Decide a batch whose transaction then aborts."""
        return self.router(list(records), self.state, Moment(now_ms, 5))

    def run(self, *records: FakeRecord, now_ms: int = NOW_MS) -> list[Output]:
        """Decide a batch and commit it."""
        result = self.abort(records, now_ms)
        self.state.apply(result.changes)
        return list(result.outputs)


def home(action: Action, partitions: int) -> int:
    """Return the partition that an action belongs to."""
    return home_of(action, action.tenant, entity_of(action), partitions)
