"""What approvals are checked against, as it stood when they were given: keys, rules and policy of the control log.

Whoever lets an action run checks its approvals by what it knows at that moment. Whoever looks at it a week later must
take what was known then: a key that has ended since, or a queue that asks for more people by now, changes nothing.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

from hitl_stream.core.errors import PolicyError
from hitl_stream.core.policy.compile import Compiled, compile_policy
from hitl_stream.core.policy.model import Policy
from hitl_stream.core.policy.rules import Rules
from hitl_stream.wire.approved import Trust
from hitl_stream.wire.control_past import ControlPast
from hitl_stream.wire.policy_file import parse
from hitl_stream.wire.seal import SealKey

COMPILED_MAX = 64
"""Compiled policies kept; a gate's first and last days make a few of each."""
Dated = tuple[Policy, str]
"""A policy and its digest."""


class TrustAt:
    """Finds a `Trust` for an epoch. `file` is the policy of the settings, in force until control promotes one.

    `topics` are the names of those on which a router asks people, `router_keys` the router's seal keys by id.
    """

    def __init__(
        self, past: ControlPast, topics: Collection[str], router_keys: Mapping[str, SealKey], file: Dated | None
    ) -> None:
        self.past = past
        self._topics = frozenset(topics)
        self._router_keys = router_keys
        self._file = file
        self._parsed: dict[int, Dated | None] = {}
        self._compiled: dict[tuple[str, int], list[Compiled]] = {}

    def at(self, epoch: int, moment_ms: int, decided_by: str) -> Trust | None:
        """Return what held at an epoch; None where nothing records the policy.

        `moment_ms` is when the router decided, `decided_by` the digest of its policy: a file that was changed leaves no
        trace, so the one that is here counts only where the router went by it, too.
        """
        dated = self._policy(epoch, decided_by)
        if dated is None:
            return None
        since, rules = self.past.rules_at(epoch)
        return Trust(
            topics=self._topics,
            router_keys=self._router_keys,
            keys=self.past.keys_at(epoch),
            audience=self.past.audience,
            policy=self._compile(dated, since, rules, moment_ms),
            rules_at=since,
        )

    def _policy(self, epoch: int, decided_by: str) -> Dated | None:
        promoted = self.past.policy_at(epoch)
        if promoted is None:
            return self._file if self._file is not None and self._file[1] == decided_by else None
        if promoted.epoch not in self._parsed:
            try:
                loaded = parse(promoted.text, f"control/{promoted.epoch}")
                self._parsed[promoted.epoch] = loaded.policy, loaded.digest
            except PolicyError:  # of another version
                self._parsed[promoted.epoch] = None
        return self._parsed[promoted.epoch]

    def _compile(self, dated: Dated, since: int, rules: Rules, moment_ms: int) -> Compiled:
        policy, digest = dated
        known = self._compiled.setdefault((digest, since), [])
        for compiled in known:
            if compiled.since_ms <= moment_ms < compiled.until_ms:
                return compiled
        compiled = compile_policy(policy, digest, moment_ms, rules)
        known[:] = [*known[-COMPILED_MAX:], compiled]
        return compiled
