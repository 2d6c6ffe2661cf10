"""Signing at the console: whose key, for how long a receipt is good, and which side a labeller sees."""

from __future__ import annotations

import pytest

from hitl_stream.console.sign import PAINTED_MS_MAX, Signer, console_key, judgement_id
from hitl_stream.core.errors import SettingsError
from hitl_stream.wire.signing import new_signing_key
from support.make import NOW_MS
from support.people import CONSOLE_KEY, MONITOR_KEY, TESS_KEY

VIEW = "ab" * 32


def test_the_newest_of_the_consoles_keys_signs():
    second = new_signing_key("console-2", "console", "service")
    keys = {key.key_id: key for key in (CONSOLE_KEY, second, MONITOR_KEY)}

    assert console_key(keys, "keys") is second


@pytest.mark.parametrize("key", [MONITOR_KEY, TESS_KEY, new_signing_key("console-9", "console", "person")])
def test_no_other_key_signs_for_people(key):
    with pytest.raises(SettingsError, match="hitl keys init"):
        console_key({key.key_id: key}, "keys")


@pytest.mark.parametrize(
    ("later_ms", "good"), [(0, True), (PAINTED_MS_MAX, True), (PAINTED_MS_MAX + 1, False), (-1, False)]
)
def test_a_receipt_is_good_from_its_painting_for_a_working_day(later_ms: int, good: bool):
    signer = Signer(CONSOLE_KEY)
    receipt = signer.receipt("ana", "i1", VIEW, NOW_MS)

    assert signer.painted_ms(receipt, "ana", "i1", VIEW, NOW_MS + later_ms) == (NOW_MS if good else None)


@pytest.mark.parametrize("receipt", ["", ".", "1", "x.y", "-1.00", f"{'9' * 20}.00", "١.00"])
def test_what_is_no_receipt_is_none(receipt: str):
    assert Signer(CONSOLE_KEY).painted_ms(receipt, "ana", "i1", VIEW, NOW_MS) is None


def test_another_key_gives_other_receipts():
    receipt = Signer(new_signing_key("console-2", "console", "service")).receipt("ana", "i1", VIEW, NOW_MS)

    assert Signer(CONSOLE_KEY).painted_ms(receipt, "ana", "i1", VIEW, NOW_MS) is None


def test_the_side_is_a_coin_toss_that_stays():
    signer = Signer(CONSOLE_KEY)
    sides = [signer.left("lea", f"p-{n}") for n in range(200)]

    assert sides == [signer.left("lea", f"p-{n}") for n in range(200)]
    assert 60 <= sides.count("a") <= 140


def test_an_id_is_for_one_person_and_one_item_and_without_one_it_is_new_each_time():
    ids = {judgement_id(person, item, "mine-0001") for person in ("ana", "ben") for item in ("i1", "i2")}

    assert len(ids) == 4
    assert judgement_id("ana", "i1", "mine-0001") in ids
    assert judgement_id("ana", "i1", None) != judgement_id("ana", "i1", None)
