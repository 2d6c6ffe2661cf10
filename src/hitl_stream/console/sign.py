"""Signing in the name of whoever is signed in: verdicts, and what stands between painting a card and judging it.

Rules:
- The key is a service's, of the holder `console`; `by` is the account, never anything of the request.
- A judgement's id is a digest of who, on what, and the id that the client chose: sent again after a lost answer it is
  the same one, which the desk counts once; and nobody can use up somebody else's.
- When a card was painted is remembered by nobody: the console signs the time, and takes it back with the verdict. So a
  console that was restarted, or another one with the same key, goes on.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Literal

from hitl_stream.console.card import Shown
from hitl_stream.core.errors import SettingsError
from hitl_stream.core.verdicts import BatchRelease, Edit, PairChoice, Qualified, Skipped, Verdict
from hitl_stream.wire.signing import SigningKey
from hitl_stream.wire.verdicts import CONSOLE, claims_by, verdict_value

PAINTED_MS_MAX = 12 * 3_600_000
"""A card that lay open for longer than a working day is painted anew."""
MAC_BYTES = 16
ID_BYTES = 16


class Signer:
    """Signs with the console's key for one cluster."""

    def __init__(self, key: SigningKey) -> None:
        self.key = key
        # A key of its own kind, so that no receipt is ever worth anything as a signature.
        secret = str(key.private.as_dict(private=True)["d"]).encode()
        self._mac_key = hashlib.blake2b(secret, digest_size=32, person=b"hitl-painted").digest()

    # --- painted ---

    def receipt(self, person: str, subject: str, view: str, now_ms: int) -> str:
        """Return what proves that this person was shown this card now."""
        return f"{now_ms}.{self._mac(person, subject, view, str(now_ms))}"

    def painted_ms(self, receipt: str, person: str, subject: str, view: str, now_ms: int) -> int | None:
        """Return when it was painted; None for a receipt that is not ours, for another card, or too old."""
        told, _, mac = receipt.partition(".")
        if not (told.isascii() and told.isdigit() and len(told) < 16):
            return None
        if not hmac.compare_digest(mac.encode(), self._mac(person, subject, view, told).encode()):
            return None
        return int(told) if now_ms - PAINTED_MS_MAX <= int(told) <= now_ms else None

    def left(self, person: str, pair: str) -> Literal["a", "b"]:
        """Return which output of a pair stands on the left: a coin toss, the same each time for this person."""
        return "a" if int(self._mac(person, pair)[0], 16) % 2 else "b"

    def _mac(self, *parts: str) -> str:
        text = b"\0".join(part.encode("utf-8", "replace") for part in parts)
        return hashlib.blake2b(text, key=self._mac_key, digest_size=MAC_BYTES).hexdigest()

    # --- judgements ---

    def verdict(
        self,
        common: Mapping[str, Any],
        shown: Shown,
        *,
        item: str,
        hash_: str,
        word: Any,
        changes: Sequence[tuple[str, Any]] = (),
        code: str | None = None,
        errors: Sequence[str] = (),
        note: str | None = None,
    ) -> bytes:
        """Return the value of a verdict's record. Raises `ValueError` where it is too long."""
        claims = Verdict(
            **common,
            view=shown.view,
            item=item,
            hash=hash_,
            verdict=word,
            changes=tuple(Edit(path, value) for path, value in changes),
            code=code,
            errors=tuple(errors),
            note=note,
        )
        return verdict_value(self.key, claims, shown.text)

    def skipped(self, common: Mapping[str, Any], shown: Shown, *, item: str) -> bytes:
        """Return the value of the record that somebody looked at an item and left it."""
        return verdict_value(self.key, Skipped(**common, view=shown.view, item=item, how="skip"), shown.text)

    def batch_release(self, common: Mapping[str, Any], shown: Shown, *, batch: str, size: int, root: str) -> bytes:
        """Return the value of the record that releases a batch."""
        claims = BatchRelease(**common, view=shown.view, batch=batch, size=size, root=root)
        return verdict_value(self.key, claims, shown.text)

    def preference(self, common: Mapping[str, Any], shown: Shown, *, pair: str, left: Any, choice: Any) -> bytes:
        """Return the value of the record that prefers one of two outputs."""
        claims = PairChoice(**common, view=shown.view, pair=pair, left=left, choice=choice)
        return verdict_value(self.key, claims, shown.text)

    def qualified(self, common: Mapping[str, Any], shown: Shown, *, class_: str, right: int, of: int) -> bytes:
        """Return the value of the record that somebody has passed the quiz of a class."""
        return verdict_value(
            self.key, Qualified(**common, view=shown.view, class_=class_, right=right, of=of), shown.text
        )

    def common(
        self,
        audience: str,
        jti: str,
        now_ms: int,
        *,
        by: str,
        role: str,
        painted_ms: int,
        policy: str,
        epoch: int,
        decided_ms: int | None = None,
    ) -> dict[str, Any]:
        """Return what every judgement of this moment says but for what it is about."""
        return {
            **claims_by(self.key, audience, jti, now_ms // 1000),
            "by": by,
            "role": role,
            "painted": _time(min(painted_ms, now_ms)),
            "decided": _time(now_ms if decided_ms is None else min(decided_ms, now_ms)),
            "policy": policy,
            "epoch": epoch,
        }


def judgement_id(person: str, subject: str, chosen: str | None) -> str:
    """Return the id of a judgement; the same for the same person, subject and chosen id."""
    if chosen is None:
        return f"c-{secrets.token_hex(ID_BYTES)}"
    text = "\0".join((person, subject, chosen)).encode("utf-8", "replace")
    return f"c-{hashlib.blake2b(text, digest_size=ID_BYTES).hexdigest()}"


def console_key(keys: Mapping[str, SigningKey], where: str) -> SigningKey:
    """Return the newest of the console's service keys among those at hand; say how to make one."""
    found = [key for key in keys.values() if key.kind == "service" and key.holder == CONSOLE]
    if not found:
        raise SettingsError(
            f"{where} holds no service key of the holder {CONSOLE}, and verdicts are signed with it; hitl keys init "
            f"makes one, {CONSOLE}-1.jwk, to be copied here"
        )
    return found[-1]


def _time(ms: int) -> datetime:
    return datetime.fromtimestamp(ms / 1000, UTC)
