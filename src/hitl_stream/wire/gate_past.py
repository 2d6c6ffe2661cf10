"""What control has said of gates, and since when: which policies there were, and which gates were gone for whom.

A judgement names the policy that its action was routed under by its digest; what the gates of that policy were is
looked up here. A removal holds from the append of the record that put it in force to that of the one that ended it.
"""

from __future__ import annotations

from collections.abc import Mapping

from msgspec import Struct
from msgspec.structs import replace

from hitl_stream.core.action import Action, Agent
from hitl_stream.core.commands import GateChange
from hitl_stream.core.control import Said
from hitl_stream.core.errors import PolicyError
from hitl_stream.core.events import Rejection
from hitl_stream.core.policy.compile import Under, gates_over
from hitl_stream.core.policy.model import Policy
from hitl_stream.core.policy.rules import Terms, terms_of
from hitl_stream.wire.control_log import ControlLog
from hitl_stream.wire.policy_file import parse


class Removal(Struct, frozen=True, kw_only=True):
    """A gate that one version of an agent is let off, since `epoch`. `until_ms` None: it still is."""

    epoch: int
    since_ms: int
    until_ms: int | None = None
    change: GateChange

    @property
    def agent(self) -> Agent:
        """Return the agent's version; the fold accepts no removal without."""
        assert self.change.agent is not None
        return self.change.agent


class GatePast(ControlLog):
    """A fold of `control` that remembers policies and removals. `known`: policies that no command has promoted."""

    def __init__(self, audience: str, trust: str, known: Mapping[str, Policy] | None = None) -> None:
        super().__init__(audience, trust)
        self.removals: list[Removal] = []
        """Oldest first."""
        self._terms: dict[str, Mapping[str, Terms]] = {}
        self._under: dict[str, Under] = {}
        for digest, policy in (known or {}).items():
            self._learn(digest, policy)

    def terms(self, digest: str, gate: str) -> Terms | None:
        """Return what a gate was in the policy with that digest; None where either is not known."""
        return self._terms.get(digest, {}).get(gate)

    def under(self, digest: str, action: Action, at_ms: int) -> tuple[str, ...]:
        """Return which gates of the policy with that digest look at an action that was routed at a time."""
        under = self._under.get(digest)
        return () if under is None else under(action, at_ms)

    def knows(self, digest: str) -> bool:
        """Say whether the policy with that digest is known."""
        return digest in self._terms

    def removal(self, gate: str, agent: Agent, at_ms: int) -> Removal | None:
        """Return the removal that let this version off this gate at that time, if one did."""
        for one in reversed(self.removals):
            if one.change.gate == gate and one.agent == agent and one.since_ms <= at_ms:
                return one if one.until_ms is None or at_ms < one.until_ms else None
        return None

    def take(self, offset: int, at_ms: int, value: bytes | None) -> Rejection | None:
        """Fold the record at `offset`, as `ControlLog` does, and remember what it changed."""
        control = self.control
        gates, policy = dict(control.gates), control.policy
        found = super().take(offset, at_ms, value)
        if control.policy is not None and control.policy is not policy:
            self._promoted(control.policy.text, control.policy.epoch)
        if control.rules_at == offset:
            self._changed(gates, dict(control.gates), control.at_ms)
        return found

    def _promoted(self, text: str, epoch: int) -> None:
        try:
            loaded = parse(text, f"control/{epoch}")
        except PolicyError:
            return  # no router of this version has decided by it, either
        self._learn(loaded.digest, loaded.policy)

    def _learn(self, digest: str, policy: Policy) -> None:
        self._terms[digest] = {name: terms_of(policy, name) for name in policy.gates}
        self._under[digest] = gates_over(policy)

    def _changed(
        self,
        before: Mapping[tuple[str, Agent | None], Said[GateChange]],
        after: Mapping[tuple[str, Agent | None], Said[GateChange]],
        at_ms: int,
    ) -> None:
        gone = {said.epoch for key, said in before.items() if after.get(key) != said}
        self.removals = [
            replace(one, until_ms=at_ms) if one.epoch in gone and one.until_ms is None else one for one in self.removals
        ]
        for key, said in after.items():
            if before.get(key) != said and said.command.state == "removed":
                self.removals.append(Removal(epoch=said.epoch, since_ms=at_ms, change=said.command))
