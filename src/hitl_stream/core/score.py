"""The risk score: additive, so that each part's share can be shown.

Total = Σ w·x / Σ w over all weights, with each x in [0, 1]:
size (change ÷ limit), doubt (1 − confidence), unusual (|robust z| ÷ its limit), missing (no evidence), money (÷ cap).
A part that an action's class does not judge counts as 0; a missing confidence is full doubt.
"""

from __future__ import annotations

from msgspec import Struct

from hitl_stream.core.policy.model import Weights

PARTS = ("size", "doubt", "unusual", "missing", "money")


class Score(Struct, frozen=True, gc=False):
    """A total in [0, 1] and the five x it was made of, in the order of `PARTS`."""

    total: float
    size: float
    doubt: float
    unusual: float
    missing: float
    money: float


class Scale:
    """The weights, divided by their sum once."""

    __slots__ = ("doubt", "missing", "money", "size", "sum", "unusual", "weights")

    def __init__(self, weights: Weights) -> None:
        raw = tuple(float(getattr(weights, part)) for part in PARTS)
        self.weights = raw
        self.sum = sum(raw)
        self.size, self.doubt, self.unusual, self.missing, self.money = (weight / self.sum for weight in raw)

    def score(self, size: float, doubt: float, unusual: float, missing: float, money: float) -> Score:
        """Add up; each x is cut to [0, 1] first.

        >>> Scale(Weights()).score(1.0, 0.1, 0.0, 0.0, 0.0).total
        0.32
        """
        if size > 1.0:
            size = 1.0
        if unusual > 1.0:
            unusual = 1.0
        if money > 1.0:
            money = 1.0
        if not 0.0 <= doubt <= 1.0:
            doubt = float(doubt > 0.0)
        total = (
            self.size * size + self.doubt * doubt + self.unusual * unusual + self.missing * missing + self.money * money
        )
        return Score(total, size, doubt, unusual, missing, money)


def shares(score: Score, scale: Scale) -> list[tuple[str, float, float, float]]:
    """Return (name, x, weight, share of the total) for each part that adds something."""
    values = (score.size, score.doubt, score.unusual, score.missing, score.money)
    added = [weight * x for weight, x in zip(scale.weights, values, strict=True)]
    whole = sum(added)
    return [
        (name, x, weight, part / whole)
        for name, x, weight, part in zip(PARTS, values, scale.weights, added, strict=True)
        if part > 0
    ]
