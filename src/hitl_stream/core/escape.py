"""Text from outside, made safe to print on a terminal or in a log."""

from __future__ import annotations

import re

_UNSAFE = re.compile(
    "[\x00-\x1f\x7f-\x9f"  # control characters: new lines, escape sequences, also the one-byte CSI
    "\u00ad\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb"  # invisible, line separators, direction
    "\ud800-\udfff\U000e0000-\U000e007f]"  # halves of pairs, tags
)


def escaped(text: str) -> str:
    r"""Return `text`, each character that could move a cursor or hide another as `\xNN`, `\uNNNN` or `\UNNNNNNNN`."""
    return _UNSAFE.sub(_escape, text)


def _escape(found: re.Match[str]) -> str:
    code = ord(found[0])
    if code < 0x100:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
