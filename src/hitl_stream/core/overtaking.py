"""Whether what runs keeps the order of its inputs, entity by entity; conflicts are those of `core.parking`."""

from __future__ import annotations

from msgspec import Struct

from hitl_stream.core.parking import Keys

NOTHING = -1


class _Place(Struct):
    """The newest inputs that ran: of any part of the place, of the place as a whole, and campaign by campaign."""

    anything: int = NOTHING
    whole: int = NOTHING
    campaigns: dict[str, int] = {}


class Overtaking:
    """What ran last of each entity. About 150 bytes a campaign.

    >>> runs = Overtaking()
    >>> one, other, all_ = (frozenset({("acme", "acc", campaign)}) for campaign in ("c-1", "c-2", None))
    >>> runs.take(one, 7), runs.take(other, 5), runs.take(all_, 6), runs.take(all_, 9), runs.take(other, 8)
    (None, None, 7, None, 9)
    """

    def __init__(self) -> None:
        self._places: dict[tuple[str, str], _Place] = {}

    def take(self, keys: Keys, offset: int) -> int | None:
        """Say that the input at `offset` runs next; return a newer one that ran before and touches the same."""
        newest = NOTHING
        for tenant, name, campaign in keys:
            place = self._places.get((tenant, name))
            if place is None:
                continue
            if campaign is None:
                newest = max(newest, place.anything)
            else:
                newest = max(newest, place.whole, place.campaigns.get(campaign, NOTHING))
        for key in keys:
            self._remember(*key, offset)
        return newest if newest > offset else None

    def _remember(self, tenant: str, name: str, campaign: str | None, offset: int) -> None:
        place = self._places.get((tenant, name))
        if place is None:
            place = self._places[tenant, name] = _Place()
        place.anything = max(place.anything, offset)
        if campaign is None:
            place.whole = max(place.whole, offset)
        else:
            place.campaigns[campaign] = max(offset, place.campaigns.get(campaign, NOTHING))
