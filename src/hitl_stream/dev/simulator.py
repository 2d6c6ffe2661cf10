"""Agents that never were: a stream of actions as thirty bidders and their colleagues would propose them.

The generator is pure: the same seed, scenario, rate, length, partition count and start give the same bytes, and another
start changes only ids and times. `simulate` publishes it, paced by `dev.drive`; `dev.replay` replays a real metric.

| scenario | what happens |
|---|---|
| `normal` | every kind of action in its share (`SHARES`), evenly spaced at `rate` |
| `demo` | as normal, with more of what is rare (`DEMO_SHARES`): every kind shows within seconds at a few hundred a second |
| `runaway-agent` | as normal; after a quarter of the time `bidder-7` raises every bid by 15 %, twenty times as often, on the same five campaigns |
| `posts-week` | a week of posts, then another one: 30 on each of 4 platforms, the captions of one account in one batch of 120, of which some break the style (`WEEK_FAULTS`) or claim what nobody has shown |
| `first-lines` | first lines to prospects, in rounds of 500, of which 370 pass the gate of the demo's policy, and 130 do not (`LINE_FAULTS`) |
| `flood` | as normal; each tenth second is a burst of ten times the rate, and after a quarter of the time one small tenant sends a hundred times its share |

Bids are most of the stream and are filled into a bytes template; one process generates far more than it can publish.
"""  # noqa: E501 - a table row cannot be broken

from __future__ import annotations

import heapq
import itertools
import math
import random
import re
import time
from array import array
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final, Literal, get_args

import orjson
from msgspec import Struct

from hitl_stream.client import TOPIC, Publisher
from hitl_stream.core.errors import UsageError
from hitl_stream.dev.drive import Progress, Sent, Source, Summary, drive, over_zero, stamp
from hitl_stream.dev.replay import from_csv
from hitl_stream.wire.home import home

__all__ = ["SCENARIOS", "Scenario", "Sent", "Simulation", "Source", "Summary", "drive", "from_csv", "simulate"]

Scenario = Literal["normal", "demo", "runaway-agent", "flood", "posts-week", "first-lines"]
SCENARIOS: Final[tuple[Scenario, ...]] = get_args(Scenario)

# --- shares of the stream; what is left over is `bid.adjust` --------------------------------------------------------
KINDS: Final[Mapping[str, float]] = {
    "bid.suggest": 0.010,
    "budget.reallocate": 0.040,
    "post.publish": 0.004,
    "post.own": 0.003,
    "firstline.send": 0.010,
    "draft.internal": 0.020,
    "email.route": 0.020,
    "email.reply": 0.005,
    "strategy.change": 0.0005,
    "creative.batch": 0.001,
}
UNKNOWN_TYPE = 0.001
DUPLICATE = 0.003
"""The same bytes again, as a publisher that retries sends them."""
CONFLICT = 0.0005
"""An id that was used already, with other bytes."""
LATE = 0.001
MALFORMED = 0.0005
MISSING_EVIDENCE = 0.001
FLAGGED = 0.001
TWO_ACCOUNTS = 0.0005
NULL_KEY = 0.005
WRONG_PARTITION = 0.005
ODD: Final[Mapping[str, float]] = {
    "unknown-type": UNKNOWN_TYPE,
    "duplicate": DUPLICATE,
    "conflict": CONFLICT,
    "late": LATE,
    "malformed": MALFORMED,
    "missing-evidence": MISSING_EVIDENCE,
    "flagged": FLAGGED,
    "two-accounts": TWO_ACCOUNTS,
    "null-key": NULL_KEY,
    "wrong-partition": WRONG_PARTITION,
}
SHARES: Final[Mapping[str, float]] = {**KINDS, **ODD}
BID_SHARE = 1 - sum(SHARES.values())
DEMO_SHARES: Final[Mapping[str, float]] = {
    **SHARES,
    "bid.suggest": 0.020,
    "budget.reallocate": 0.060,
    "post.publish": 0.010,
    "post.own": 0.010,
    "firstline.send": 0.020,
    "email.reply": 0.010,
    "strategy.change": 0.003,
    "creative.batch": 0.004,
    "unknown-type": 0.002,
    "conflict": 0.002,
    "late": 0.003,
    "malformed": 0.003,
    "missing-evidence": 0.003,
    "flagged": 0.003,
    "two-accounts": 0.002,
}

# --- shares within a kind -------------------------------------------------------------------------------------------
BID_LARGE = 0.02
BID_LARGE_RANGE = (0.21, 0.60)
BID_SIGMA = 0.06
BID_LIMIT = 0.20
HUGGER_RANGE = (0.95, 1.0)
"""The part of the limit by which the hugger raises: it never breaks a rule, and that is what gives it away."""
SIDE_STEP = 0.03
MOVE_LARGE = 0.04
MOVE_LARGE_RATIO = 28
MOVE_SIGMA, MOVE_MAX = 0.03, 0.095
CAPTION_TOO_LONG = 0.05
CAPTION_CONTRACTION = 0.05
CAPTION_CLAIM = 0.03
POST_NEGATIVE = 0.10
LOT_SIZES = (8, 30)
"""The smaller ones are looked at whole, the larger ones by a sample of 13."""
LINE_UNNAMED = 0.05
FOREIGN_BUDGET = 0.10

# --- who and what ---------------------------------------------------------------------------------------------------
BIDDERS = 30
HUGGER = 13
RUNAWAY = 7
TENANTS: Final[Mapping[str, int]] = {"acme": 60, "globex": 25, "initech": 14, "umbra": 1}
"""Accounts in a hundred; the last one is who floods."""
FLOODER = "umbra"
TENANT_SLOTS: Final[tuple[str, ...]] = tuple(name for name, count in TENANTS.items() for _ in range(count))
CAMPAIGNS_PER_ACCOUNT = 20
ACCOUNT_STEP = 300
"""Accounts come in multiples of this, so that bidders (30) and tenants (100) have exactly their shares."""
REVISIT_SECONDS = 40
"""A campaign's bid moves this seldom: three steps of the hugger in a minute would break `auto_max_change_per`."""
CAMPAIGNS_MAX = 2_000_000
"""16 MB of bids. Beyond it (50,000/s, or floods of 5,000/s) campaigns are visited more often."""
RECENT = 64
"""Bids remembered for duplicates and conflicts."""
TABLE = 8_192
"""Numbers drawn ahead for changes and confidences: drawing a beta costs more than all the rest of a bid."""

RUNAWAY_STEP = 0.15
RUNAWAY_TIMES = 20
RUNAWAY_CAMPAIGNS = 5
RUNAWAY_CEILING = 10_000_000
"""In ten-thousandths of a euro. An agent that sees its bid at 1,000 EUR reads the platform anew and starts over."""
TROUBLE_FROM = 0.25
BURST_TIMES = 10
BURST_EVERY_MS, BURST_MS = 10_000, 1_000
FLOOD_TIMES = 100
LATE_MS = 2 * 3_600_000
EXPIRES_MS = 3_600_000

PLATFORMS: Final[Mapping[str, int]] = {"x": 280, "linkedin": 3_000, "instagram": 2_200, "facebook": 5_000}
BUDGETS = ("4200.00", "8750.00", "9999.99", "10000.00", "10000.01", "10400.00", "15000.00")
BUDGET_WEIGHTS = (40, 25, 10, 10, 5, 5, 5)
COMPANIES = ("Northwind", "Harbor Labs", "Tallgrass", "Quillsoft", "Brightwater", "Juniper Freight", "Oakline", "Vireo")
SEGMENTS = ("mid-saas", "mid-saas", "mid-saas", "smb", "enterprise")
CALM = (
    "Our autumn collection is in the shops.", "Free delivery for every order until Sunday.", "See how it is made.",
    "Three colours, one fit, made to last.", "Order today and have it by Friday.", "Meet the people behind it.",
    "New sizes are in, with warm regards from the whole team.", "A closer look at the season ahead.",
)  # fmt: skip
CONTRACTIONS = ("You don't want to miss it.", "It isn't like the others.", "We can’t wait to show you.")
CLAIM = "Clinically proven to work in a week."
SENTENCE_MAX = 70
"""No sentence above is longer, with the space before it."""
NEGATIVE = (
    "Terrible service and awful delays: customers hate this horrible failure.",
    "The worst launch ever, a disaster, and everyone is angry and disappointed.",
)
LINE_MIDDLES = (
    "your team has just opened a second office, and we have helped others settle in well",
    "your last release made quite an impression here, and we would love to hear what is next",
    "your page says that support is growing, which is where we have been of use to others",
)
LINE_ENDS = (
    "",
    ", gladly",
    ", whenever it suits",
    ", with pleasure and without haste",
    ", with pleasure, at any time you like",
)
LINE_LENGTHS = range(100, 141)
LINE_LONG_FROM = 120
LINE_LONG = 0.26
"""First lines of 120 characters and more, which the gate diverts."""
WEEK_POSTS = 30
WEEK = WEEK_POSTS * len(PLATFORMS)
WEEK_FAULTS: Final[Mapping[str, int]] = {"long": 4, "contraction": 6, "claim": 4, "claim and contraction": 2}
"""Captions of a week's batch that are not simply well: too long, in the wrong voice, a claim.

The long ones were written for one of the other platforms, and stand on the one with the least room.
"""
LINES = 500
LINE_FAULTS: Final[Mapping[str, int]] = {"long": 50, "unnamed": 45, "unfriendly": 30, "long and unnamed": 5}
"""First lines of a round that fail: `short`, `names_company`, `friendly`, and two of these at once."""
UNFRIENDLY = (
    "{name}, your awful ads are a disaster, and everybody hates them.",
    "{name}, what a terrible page. Your horrible support is the worst failure there is.",
)
REPLIES = (
    "Thank you for writing. Your order left our warehouse this morning and should arrive by Friday.",
    "Thank you for your patience. We have sent a new invoice to the address that you gave us.",
)
FLAGS = ("ethical", "brand_flag", "data_quality", "campaign_constraint")


class _Place(Struct, frozen=True, gc=False):
    """An account: whose it is, who bids in it, where it lives."""

    tenant: str
    account: str
    bidder: int
    agent: str
    campaign: str
    key: str
    partition: int


class Simulation:
    """The stream of one scenario: iterate over it, or ask for what is due.

    `rate` is records a second before the scenario adds its own, `seconds` the length, `start_ms` the Unix time of the
    first record.
    """

    def __init__(
        self,
        seed: int = 0,
        scenario: Scenario = "normal",
        rate: float = 100.0,
        start_ms: int = 0,
        *,
        seconds: float = 60.0,
        partitions: int = 12,
    ) -> None:
        _check(scenario, rate, seconds, partitions)
        self.partitions = partitions
        self.start_ms = start_ms
        self._trouble_ms = seconds * 1_000 * TROUBLE_FROM
        self._rng = random.Random(seed)
        self._prefix = f"sim-{seed}-{start_ms:x}-"
        self._count = 0
        self._scenario = scenario
        peak = rate * (BURST_TIMES if scenario == "flood" else 1)
        self._pool = _Pool(0, peak, None)
        self._flood = self._pool
        if scenario == "flood":
            self._flood = _Pool(self._pool.accounts, rate * FLOOD_TIMES * TENANTS[FLOODER] / 100, FLOODER)
        self._kinds = _table(DEMO_SHARES if scenario == "demo" else SHARES)
        self._changes = [self._rng.gauss(0, BID_SIGMA) for _ in range(TABLE)]
        self._bid_confidence = self._betas(18, 2)
        self._sure = self._betas(60, 1)
        self._fairly_sure = self._betas(30, 1.5)
        self._places: dict[int, _Place] = {}
        self._recent: list[Sent] = []
        self._budgets: dict[tuple[int, int], int] = {}
        self._runaway: dict[int, int] = {}
        self._lots: dict[str, tuple[_Place, str, int, int]] = {}
        self._faults: list[str] = []
        self._makers: dict[str, Callable[[str, int, int], Sent]] = {
            "bid.suggest": self._bid_suggest,
            "budget.reallocate": self._move,
            "missing-evidence": self._move,
            "two-accounts": self._move,
            "post.publish": self._post_publish,
            "post.own": self._post_own,
            "firstline.send": self._firstline,
            "draft.internal": self._draft,
            "flagged": self._draft,
            "email.route": self._email,
            "email.reply": self._email,
            "strategy.change": self._strategy,
            "creative.batch": self._creative,
            "unknown-type": self._odd_bid,
            "duplicate": self._repeat,
            "conflict": self._repeat,
            "late": self._odd_bid,
            "malformed": self._odd_bid,
            "null-key": self._odd_bid,
            "wrong-partition": self._odd_bid,
        }
        self._timeline = _timeline(scenario, rate, seconds * 1_000)
        self._next = next(self._timeline, None)

    def __iter__(self) -> Iterator[Sent]:
        return self

    def __next__(self) -> Sent:
        if self._next is None:
            raise StopIteration
        due, stream = self._next
        self._next = next(self._timeline, None)
        return self._make(stream, int(due), self.start_ms + int(due))

    @property
    def done(self) -> bool:
        """Say whether the stream is at its end."""
        return self._next is None

    def until(self, due_ms: float, now_ms: int, limit: int) -> list[Sent]:
        """Return what is due by `due_ms`, at most `limit` records, stamped as proposed at `now_ms`."""
        found: list[Sent] = []
        while self._next is not None and self._next[0] <= due_ms and len(found) < limit:
            due, stream = self._next
            self._next = next(self._timeline, None)
            found.append(self._make(stream, int(due), now_ms))
        return found

    def _make(self, stream: int, due: int, now: int) -> Sent:
        if stream == _RUNAWAY:
            return self._runaway_bid(due, now)
        if stream == _FLOOD:
            return self._bid(self._flood, due, now)
        if self._scenario == "posts-week":
            return self._week_post(due, now)
        if self._scenario == "first-lines":
            return self._round_line(due, now)
        kind = self._kinds[int(self._rng.random() * len(self._kinds))]
        if kind == "bid.adjust":
            return self._bid(self._pool, due, now)
        return self._makers[kind](kind, due, now)

    # --- bids ---

    def _bid(self, pool: _Pool, due: int, now: int) -> Sent:
        campaign = pool.advance()
        place = self._place(campaign % pool.accounts + pool.first, pool.tenant)
        if place.bidder == RUNAWAY and self._scenario == "runaway-agent" and due >= self._trouble_ms:
            return self._runaway_bid(due, now)
        rng = self._rng
        decimals = 4 if place.bidder == HUGGER else _decimals(campaign // pool.accounts)
        before = pool.prices[campaign] // _UNITS[decimals]
        kind = "bid.adjust"
        if place.bidder == HUGGER:
            kind = "bid.hugger"
            most = before * BID_LIMIT
            step = min(math.ceil(most * rng.uniform(*HUGGER_RANGE)), int(most))
        elif rng.random() < BID_LARGE:
            kind = "bid.large"
            step = int(before * rng.uniform(*BID_LARGE_RANGE)) + 1
            step = -step if rng.random() < 0.5 else step
        else:
            step = int(before * self._changes[int(rng.random() * TABLE)]) or 1
        price_max = _HUGGER_PRICE_MAX if kind == "bid.hugger" else _PRICE_MAX
        if not _PRICE_MIN < (before + step) * _UNITS[decimals] < price_max:
            # A bid that would leave its usual range turns round.
            step = -abs(step) if step > 0 else -step
        if kind != "bid.large":
            # A large one waits for a person: the platform still has the old value.
            pool.prices[campaign] = (before + step) * _UNITS[decimals]
        sent = self._fill(kind, place, campaign, decimals, before, before + step, due, now)
        self._remember(sent)
        return sent

    def _runaway_bid(self, due: int, now: int) -> Sent:
        which = RUNAWAY + self._pool.accounts * self._rng.randrange(RUNAWAY_CAMPAIGNS)
        before = self._runaway.get(which) or self._pool.prices[which]
        after = before + int(before * RUNAWAY_STEP)
        self._runaway[which] = after if after < RUNAWAY_CEILING else 0
        return self._fill("bid.runaway", self._place(RUNAWAY, None), which, 4, before, after, due, now)

    def _fill(
        self, kind: str, place: _Place, campaign: int, decimals: int, before: int, after: int, due: int, now: int
    ) -> Sent:
        """Fill the template of a bid; `before` and `after` count units of 10^-decimals."""
        self._count += 1
        unit = 10**decimals
        form = _FORMS[decimals]
        confidence = self._bid_confidence[int(self._rng.random() * TABLE)]
        value = _BID % (
            self._prefix, self._count, place.tenant, place.agent, place.account, campaign,
            form % divmod(before, unit), form % divmod(after, unit), confidence, stamp(now), stamp(now + EXPIRES_MS),
        )  # fmt: skip
        return Sent(due, value.encode(), b"%s/cmp-%d" % (place.key.encode(), campaign), place.partition, kind)

    def _remember(self, sent: Sent) -> None:
        if len(self._recent) < RECENT:
            self._recent.append(sent)
        else:
            self._recent[self._count % RECENT] = sent

    def _side_bid(self, kind: str, due: int, now: int) -> Sent:
        """A small bid out of turn, by anybody but the hugger and the runaway, who never send one."""
        campaign = self._rng.randrange(self._pool.campaigns - 1)
        if campaign % self._pool.accounts % BIDDERS in (HUGGER, RUNAWAY):
            campaign += 1
        decimals = _decimals(campaign // self._pool.accounts)
        before = self._pool.prices[campaign] // _UNITS[decimals]
        after = before + (int(before * SIDE_STEP) or 1)
        if kind in ("null-key", "wrong-partition"):
            # Only these will run, once they are home.
            self._pool.prices[campaign] = after * _UNITS[decimals]
        place = self._place(campaign % self._pool.accounts, None)
        return self._fill(kind, place, campaign, decimals, before, after, due, now)

    def _bid_suggest(self, kind: str, due: int, now: int) -> Sent:
        bid = self._side_bid(kind, due, now)
        return _with(bid, value=bid.value.replace(b'"bid.adjust"', b'"bid.suggest"', 1))

    def _odd_bid(self, kind: str, due: int, now: int) -> Sent:
        bid = self._side_bid(kind, due, now - LATE_MS if kind == "late" else now)
        match kind:
            case "unknown-type":
                return _with(bid, value=bid.value.replace(b'"bid.adjust"', b'"price.negotiate"', 1))
            case "null-key":
                return Sent(due, bid.value, None, None, kind)
            case "wrong-partition":
                away = self._rng.randrange(1, self.partitions) if self.partitions > 1 else 0
                return Sent(due, bid.value, bid.key, ((bid.partition or 0) + away) % self.partitions, kind)
            case "malformed":
                return _with(bid, value=self._broken(bid.value))
        return bid

    def _broken(self, value: bytes) -> bytes:
        ways = (
            value[: len(value) // 2],
            b"bid up 5 percent",
            value.replace(b'"confidence":"', b'"confidence":"very ', 1),
        )
        return self._rng.choice(ways)

    def _repeat(self, kind: str, due: int, now: int) -> Sent:
        """The bytes of an earlier bid, or its id with another bid."""
        if not self._recent:
            return self._bid(self._pool, due, now)
        earlier = self._rng.choice(self._recent)
        value = earlier.value
        if kind == "conflict":
            value = re.sub(rb'"after":"', b'"after":"1', value, count=1)
        return Sent(due, value, earlier.key, earlier.partition, kind)

    # --- everything else: rarer, so dicts are fast enough ---

    def _move(self, kind: str, due: int, now: int) -> Sent:
        """Move budget between two campaigns of an account (or of two accounts): the legs sum to zero."""
        rng = self._rng
        account = rng.randrange(self._pool.accounts)
        other = (account + 100) % self._pool.accounts if kind == "two-accounts" else account
        one, two = rng.sample(range(CAMPAIGNS_PER_ACCOUNT), 2)
        legs = ((account, one), (other, two))
        before = [self._budgets.get(leg, 5_000 + 2_500 * (sum(leg) % 7)) for leg in legs]
        large = kind == "budget.reallocate" and rng.random() < MOVE_LARGE
        ratio = MOVE_LARGE_RATIO / 100 if large else min(abs(rng.gauss(0, MOVE_SIGMA)) + 0.005, MOVE_MAX)
        amount = int(min(before) * ratio + 1e-6) or 1
        after = [before[0] - amount, before[1] + amount]
        if kind == "budget.reallocate" and not large:
            # Kept away from nothing: an account's budgets wander for hours, but none runs dry.
            for leg, cents in zip(legs, after, strict=True):
                self._budgets[leg] = cents if cents > 1_000 else 5_000
        place = self._place(account, None)
        changes = [
            {
                "entity": {
                    "account": self._place(leg[0], None).account,
                    "campaign": f"cmp-{leg[0] + leg[1] * self._pool.accounts}",
                },
                "field": "daily_budget",
                "before": _money(before[side]),
                "after": _money(after[side]),
                "unit": "EUR",
            }
            for side, leg in enumerate(legs)
        ]
        evidence = [{"signal": "cpa_7d", "value": "12.31", "before": "13.02", "better": "down", "ref": "perf/daily"}]
        return self._write(
            kind,
            "budget.reallocate",
            place,
            f"mover-{account % 5}",
            due,
            now,
            changes=changes,
            confidence=f"{rng.uniform(0.82, 0.99):.3f}",
            destination="google_ads",
            evidence=[] if kind == "missing-evidence" else evidence,
            rationale="CPA under target for seven days.",
        )

    def _post_publish(self, kind: str, due: int, now: int) -> Sent:
        rng = self._rng
        platform = rng.choice(tuple(PLATFORMS))
        most = PLATFORMS[platform]
        long = rng.random() < CAPTION_TOO_LONG
        length = most + 1 if long else rng.randint(60, min(most, 400) - SENTENCE_MAX)
        parts: list[str] = []
        if rng.random() < CAPTION_CONTRACTION:
            parts.append(rng.choice(CONTRACTIONS))
        if rng.random() < CAPTION_CLAIM:
            parts.append(CLAIM)
        content = {"text": self._prose(parts, length), "language": "en", "platform": platform, "source": "brief/autumn"}
        return self._in_lot(kind, due, now, content)

    def _week_post(self, due: int, now: int) -> Sent:
        """Write the next caption of the week: post by post, for each platform."""
        _, _, _, index = self._lots.get("post.publish", (None, "", WEEK, 0))
        if not index:
            self._faults = self._week_faults()
        fault, (platform, most) = self._faults[index], tuple(PLATFORMS.items())[index % len(PLATFORMS)]
        parts = [self._rng.choice(CONTRACTIONS)] if "contraction" in fault else []
        parts += [CLAIM] if "claim" in fault else []
        length = most + 1 if fault == "long" else self._rng.randint(100, min(most, 400) - SENTENCE_MAX)
        source = f"brief/post-{index // len(PLATFORMS) + 1}"
        content = {"text": self._prose(parts, length), "language": "en", "platform": platform, "source": source}
        return self._in_lot("post.publish", due, now, content, WEEK)

    def _round_line(self, due: int, now: int) -> Sent:
        """Write the next first line of the round."""
        fault, company = self._round_fault(), self._rng.choice(COMPANIES)
        name = "Friends" if "unnamed" in fault else company
        if fault == "unfriendly":
            return self._line(due, now, company, name, self._rng.choice(UNFRIENDLY).format(name=name), "mid-saas")
        return self._line(due, now, company, name, self._fitting(name, "long" in fault), "mid-saas")

    def _week_faults(self) -> list[str]:
        """Return what is wrong with each caption of a week: mostly nothing."""
        least_room = tuple(PLATFORMS).index(min(PLATFORMS, key=PLATFORMS.__getitem__))
        places = self._rng.sample(range(least_room, WEEK, len(PLATFORMS)), WEEK_FAULTS["long"])
        faults = ["long" if index in places else "" for index in range(WEEK)]
        others = [name for name, count in WEEK_FAULTS.items() if name != "long" for _ in range(count)]
        free = [index for index, fault in enumerate(faults) if not fault]
        for index, name in zip(self._rng.sample(free, len(others)), others, strict=True):
            faults[index] = name
        return faults

    def _round_fault(self) -> str:
        """Return what is wrong with the next first line of the round: so many of each, in any order."""
        if not self._faults:
            self._faults = [name for name, count in LINE_FAULTS.items() for _ in range(count)]
            self._faults += [""] * (LINES - len(self._faults))
            self._rng.shuffle(self._faults)
        return self._faults.pop()

    def _creative(self, kind: str, due: int, now: int) -> Sent:
        digest = self._rng.randbytes(32).hex()
        asset = {"sha256": digest, "media_type": "image/png", "uri": f"https://assets.example/{digest[:12]}.png"}
        content = {"text": self._prose([], 90), "language": "en", "platform": "instagram", "assets": [asset]}
        return self._in_lot(kind, due, now, content)

    def _in_lot(self, kind: str, due: int, now: int, content: dict[str, Any], size: int | None = None) -> Sent:
        """Write the next item of this kind's open lot, or the first of a new one in another account, of that size."""
        if kind not in self._lots:
            lot = f"lot-{self._prefix}{self._count + 1}"
            self._lots[kind] = (self._any_place(), lot, size or self._rng.randint(*LOT_SIZES), 0)
        place, lot, size, index = self._lots[kind]
        self._lots[kind] = (place, lot, size, index + 1)
        if index + 1 == size:
            del self._lots[kind]
        return self._write(
            kind,
            kind,
            place,
            f"copy-{place.bidder % 4}",
            due,
            now,
            entity={"account": place.account, "campaign": place.campaign},
            confidence=f"{self._rng.uniform(0.7, 0.99):.3f}",
            destination=content["platform"],
            content=content,
            context={"campaign_budget": {"amount": "4200.00", "currency": "EUR"}},
            batch={"id": lot, "size": size, "index": index},
        )

    def _post_own(self, kind: str, due: int, now: int) -> Sent:
        rng = self._rng
        place = self._any_place()
        parts = [rng.choice(NEGATIVE)] if rng.random() < POST_NEGATIVE else []
        text = parts[0] if parts else self._prose([], rng.randint(60, 250))
        amount = rng.choices(BUDGETS, BUDGET_WEIGHTS)[0]
        currency = "USD" if rng.random() < FOREIGN_BUDGET else "EUR"
        return self._write(
            kind,
            kind,
            place,
            f"copy-{place.bidder % 4}",
            due,
            now,
            entity={"account": place.account, "campaign": place.campaign},
            confidence=f"{rng.uniform(0.7, 0.99):.3f}",
            destination="linkedin",
            content={"text": text, "language": "en", "platform": "linkedin"},
            context={"campaign_budget": {"amount": amount, "currency": currency}},
        )

    def _firstline(self, kind: str, due: int, now: int) -> Sent:
        rng = self._rng
        company = rng.choice(COMPANIES)
        name = "Friends" if rng.random() < LINE_UNNAMED else company
        text = self._fitting(name, rng.random() < LINE_LONG)
        return self._line(due, now, company, name, text, rng.choice(SEGMENTS))

    def _fitting(self, name: str, long: bool) -> str:
        lines = [f"Dear {name}, {middle}{end}." for middle in LINE_MIDDLES for end in LINE_ENDS]
        fits = [line for line in lines if len(line) in LINE_LENGTHS and (len(line) >= LINE_LONG_FROM) == long]
        return self._rng.choice(fits)

    def _line(self, due: int, now: int, company: str, name: str, text: str, segment: str) -> Sent:
        place = self._any_place()
        return self._write(
            "firstline.send",
            "firstline.send",
            place,
            f"sdr-{place.bidder % 3}",
            due,
            now,
            entity={"account": place.account},
            confidence=self._fairly(),
            destination="outreach",
            content={"text": text, "language": "en"},
            context={
                "company": company,
                "segment": segment,
                "email": f"hello@{name.split()[0].lower()}.example",
            },
        )

    def _draft(self, kind: str, due: int, now: int) -> Sent:
        place = self._any_place()
        return self._write(
            kind,
            "draft.internal",
            place,
            f"copy-{place.bidder % 4}",
            due,
            now,
            entity={"account": place.account},
            confidence=self._fairly(),
            flags=[self._rng.choice(FLAGS)] if kind == "flagged" else [],
            content={"text": self._prose([], 200), "language": "en"},
        )

    def _email(self, kind: str, due: int, now: int) -> Sent:
        rng = self._rng
        place = self._any_place()
        reply = kind == "email.reply"
        return self._write(
            kind,
            kind,
            place,
            f"support-{place.bidder % 3}",
            due,
            now,
            entity={"account": place.account},
            confidence=self._sure[rng.randrange(TABLE)] if reply else self._fairly(),
            destination="mail",
            content={"text": rng.choice(REPLIES), "language": "en"} if reply else None,
            context={
                "email": f"customer{rng.randrange(10_000)}@example.com",
                "queue": rng.choice(("billing", "orders")),
            },
        )

    def _strategy(self, kind: str, due: int, now: int) -> Sent:
        place = self._any_place()
        return self._write(
            kind,
            kind,
            place,
            f"mover-{place.bidder % 5}",
            due,
            now,
            entity={"account": place.account},
            confidence=self._fairly(),
            context={"goal": self._rng.choice(("reach", "conversions", "margin"))},
            rationale="Margin has outgrown reach for four weeks.",
        )

    def _write(self, kind: str, type_: str, place: _Place, agent: str, due: int, now: int, **fields: Any) -> Sent:
        """Write an action; its Kafka key follows its legs or its entity."""
        self._count += 1
        action = {
            "action_id": f"{self._prefix}{self._count}",
            "tenant": place.tenant,
            "agent": {"id": agent, "version": "2026.11.3"},
            "type": type_,
            "proposed_at": stamp(now),
            **{name: value for name, value in fields.items() if value is not None},
        }
        campaign = fields.get("entity", {}).get("campaign")
        key = f"{place.key}/{campaign}" if campaign else place.key
        return Sent(due, orjson.dumps(action), key.encode(), place.partition, kind)

    # --- leaves ---

    def _place(self, account: int, tenant: str | None) -> _Place:
        place = self._places.get(account)
        if place is None:
            owner = tenant or TENANT_SLOTS[account * 61 % 100]
            name = f"acc-{account}"
            bidder = account % BIDDERS
            where = home(owner, name, self.partitions)
            place = self._places[account] = _Place(
                owner, name, bidder, f"bidder-{bidder}", f"cmp-{account}", f"{owner}/{name}", where
            )
        return place

    def _any_place(self) -> _Place:
        return self._place(self._rng.randrange(self._pool.accounts), None)

    def _fairly(self) -> str:
        return self._fairly_sure[self._rng.randrange(TABLE)]

    def _betas(self, alpha: float, beta: float) -> list[str]:
        return [f"{self._rng.betavariate(alpha, beta):.4f}" for _ in range(TABLE)]

    def _prose(self, parts: Sequence[str], length_min: int) -> str:
        """Return `parts` and calm sentences, `length_min` characters or up to a sentence more."""
        text = " ".join(parts)
        while len(text) < length_min:
            text = f"{text} {self._rng.choice(CALM)}".lstrip()
        return text


class _Pool:
    """Campaigns and their bids (ten-thousandths of a euro), visited in turn so that none is visited too often."""

    def __init__(self, first: int, rate: float, tenant: str | None) -> None:
        self.first = first
        self.tenant = tenant
        wanted = min(rate * REVISIT_SECONDS, CAMPAIGNS_MAX)
        self.accounts = ACCOUNT_STEP * max(1, math.ceil(wanted / (ACCOUNT_STEP * CAMPAIGNS_PER_ACCOUNT)))
        self.campaigns = self.accounts * CAMPAIGNS_PER_ACCOUNT
        self.prices = array("q")
        for row in range(CAMPAIGNS_PER_ACCOUNT):
            unit = _UNITS[_decimals(row)]
            numbers = range(row * self.accounts, (row + 1) * self.accounts)
            self.prices.extend((2_000 + n * 7_919 % 88_000) // unit * unit for n in numbers)
        # Accounts are a multiple of the bidders, so these are the hugger's: it starts low, and only ever raises.
        for n in range(HUGGER, self.campaigns, BIDDERS):
            self.prices[n] = 2_000 + n % 5_000
        self._cursor = -1

    def advance(self) -> int:
        """Return the campaign whose turn it is."""
        self._cursor = (self._cursor + 1) % self.campaigns
        return self._cursor


_BASE, _FLOOD, _RUNAWAY = range(3)
"""The streams of a timeline."""
_UNITS = {2: 100, 3: 10, 4: 1}
_FORMS = {2: "%d.%02d", 3: "%d.%03d", 4: "%d.%04d"}
_PRICE_MIN, _PRICE_MAX = 1_500, 95_000
_HUGGER_PRICE_MAX = 240_000
"""At 24 EUR its steps come near `auto_max_amount`; it takes a quarter of an hour to get there."""
_BID = (
    '{"action_id":"%s%d","tenant":"%s","agent":{"id":"%s","version":"2026.11.3"},"type":"bid.adjust",'
    '"changes":[{"entity":{"account":"%s","campaign":"cmp-%d"},"field":"bid","before":"%s","after":"%s","unit":"EUR"}],'
    '"confidence":"%s","proposed_at":"%s","expires_at":"%s","destination":"google_ads",'
    '"evidence":[{"signal":"cpa_7d","value":"12.31","before":"13.02","better":"down","ref":"perf/daily"},'
    '{"signal":"roas_7d","value":"3.20","before":"3.05","better":"up","ref":"perf/daily"}],'
    '"rationale":"CPA under target for seven days; move the bid with the evening auctions."}'
)


def _table(shares: Mapping[str, float]) -> list[str]:
    """Return ten thousand kinds, each as often as its share; a draw from it costs one index."""
    slots = 10_000
    table = [kind for kind, share in shares.items() for _ in range(round(share * slots))]
    return table + ["bid.adjust"] * (slots - len(table))


def _decimals(row: int) -> int:
    """Return how many decimals the bids of an account's campaign number `row` have."""
    return 2 + row % 3


def _check(scenario: str, rate: float, seconds: float, partitions: int) -> None:
    if scenario not in SCENARIOS:
        raise UsageError(f"no scenario {scenario!r}; there are {', '.join(SCENARIOS)}")
    over_zero(rate=rate, seconds=seconds, partitions=partitions)


def _timeline(scenario: Scenario, rate: float, end_ms: float) -> Iterator[tuple[float, int]]:
    """Yield (due in ms, stream) in order."""
    trouble = end_ms * TROUBLE_FROM
    streams = [_ticks(_BASE, rate, 0, end_ms)]
    if scenario == "runaway-agent":
        streams.append(_ticks(_RUNAWAY, rate * BID_SHARE / BIDDERS * (RUNAWAY_TIMES - 1), trouble, end_ms))
    if scenario == "flood":
        streams.append(_ticks(_FLOOD, rate * TENANTS[FLOODER] / 100 * (FLOOD_TIMES - 1), trouble, end_ms))
        streams.append(
            itertools.chain.from_iterable(
                _ticks(_BASE, rate * (BURST_TIMES - 1), at, min(at + BURST_MS, end_ms))
                for at in range(BURST_EVERY_MS - BURST_MS, math.ceil(end_ms), BURST_EVERY_MS)
            )
        )
    return streams[0] if len(streams) == 1 else heapq.merge(*streams)


def _ticks(stream: int, rate: float, start_ms: float, end_ms: float) -> Iterator[tuple[float, int]]:
    step = 1_000 / rate
    for n in range(max(0, math.ceil((end_ms - start_ms) / step - 1e-9))):
        yield start_ms + n * step, stream


def _money(cents: int) -> str:
    return f"{cents // 100}.{cents % 100:02d}"


def _with(sent: Sent, value: bytes) -> Sent:
    return Sent(sent.due_ms, value, sent.key, sent.partition, sent.kind)


async def simulate(
    bootstrap: str,
    topic: str = TOPIC,
    partitions: int | None = None,
    rate: float = 100.0,
    seconds: float = 60.0,
    scenario: Scenario = "normal",
    seed: int = 0,
    on_progress: Progress | None = None,
) -> Summary:
    """Publish a scenario at its rate and return what was sent.

    `partitions` is read from the topic; if given, it must be the same. Cancelling flushes,
    reports a last time to `on_progress` and goes on as `CancelledError`; the tick that was in flight may have been
    written without being counted.
    """
    _check(scenario, rate, seconds, partitions or 1)
    async with Publisher(bootstrap, topic=topic) as publisher:
        if partitions is not None and partitions != publisher.partitions:
            raise UsageError(f"{topic} has {publisher.partitions} partitions, not {partitions}")
        start_ms = time.time_ns() // 1_000_000
        stream = Simulation(seed, scenario, rate, start_ms, seconds=seconds, partitions=publisher.partitions)
        return await drive(stream, publisher, seed=seed, on_progress=on_progress)
