"""The policy in force, compiled for the moment: what control promoted, else the file of the settings."""

from __future__ import annotations

from hitl_stream.core.control import Control
from hitl_stream.core.errors import BrokenError, PolicyError
from hitl_stream.core.policy.compile import Compiled, compile_policy
from hitl_stream.core.policy.model import Policy
from hitl_stream.core.policy.rules import rules_of
from hitl_stream.wire.policy_file import parse


class Policies:
    """Compiles when something changed: a promotion, a level, gate or pin, a gate's first or last day, a pin's end."""

    def __init__(self, policy: Policy, digest: str, control: Control | None = None) -> None:
        self.policy = policy
        self.digest = digest
        self.control = control if control is not None else Control()
        self._compiled: Compiled | None = None
        self._rules_at = self._promoted_at = -1

    def at(self, now_ms: int) -> Compiled:
        """Return the policy as it stands at `now_ms`.

        Raises `BrokenError` for a promoted policy that this version cannot read: better nothing runs than the old one.
        """
        compiled = self._compiled
        if compiled is None or self._rules_at != self.control.rules_at:
            self._adopt()
            compiled = None
        if compiled is None or not compiled.since_ms <= now_ms < compiled.until_ms:
            compiled = self._compiled = compile_policy(self.policy, self.digest, now_ms, rules_of(self.control))
        return compiled

    def _adopt(self) -> None:
        """Take over what control says by now."""
        promoted = self.control.policy
        if promoted is not None and promoted.epoch != self._promoted_at:
            try:
                loaded = parse(promoted.text, f"control/{promoted.epoch}")
            except PolicyError as error:
                raise BrokenError(
                    f"the policy promoted at control epoch {promoted.epoch} cannot be read by this version: {error}"
                ) from error
            # The digest of the text, not the one that the command claims: the text is what two people confirmed.
            self.policy, self.digest = loaded.policy, loaded.digest
            self._promoted_at = promoted.epoch
        self._rules_at = self.control.rules_at
