"""The reading floor: a quarter of the time that reading takes, two seconds at least, two more for each asset."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hitl_stream.core.dwell import assets_shown, floor_ms, floor_of, words_of, words_shown
from support.make import change, make_action, post

ASSET = {"sha256": "9f" * 32, "media_type": "image/png", "uri": "s3://x/y.png"}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", 0),
        (" \n\t", 0),
        ("Hello", 1),
        ("Hello, Anna!", 2),
        ("two\u00a0words\u3000three\nfour", 4),
        ("Save 20 % - today & only … !", 4),
        ("€5.00", 1),
        ("don't re-read", 2),
        ("a/b c.d", 2),
        ("e\u0301te\u0301", 1),
        ("\u200b \u202e", 0),
        ("🎉 🎉", 0),
        # long words are words, what is too long for one is not
        ("Donaudampfschifffahrtsgesellschaft", 1),
        ("x" * 40, 1),
        ("x" * 41, 9),
        ("Hello.Anna,we.saw.that.Acme.grows.fast.Shall.we.talk?", 9),
        # where words are not spaced five characters are one
        ("今日だけ二割引です", 2),
        ("今日は、良い天気です。", 2),
        ("日", 1),
        ("ｶﾀｶﾅｶﾀ", 2),
        ("ลดราคา", 2),
        ("วันนี้ลดพิเศษ", 3),  # its vowels above count
        ("Acme 今日だけ二割引です today", 4),
        ("Acmeの新商品Xを", 3),
        ("오늘만 할인", 2),
        ("Только сегодня", 2),
    ],
)
def test_words_are_counted_as_people_read_them(text: str, words: int) -> None:
    assert words_of(text) == words


@pytest.mark.parametrize(
    ("words", "assets", "floor"),
    [
        (0, 0, 2_000),
        (31, 0, 2_000),
        (32, 0, 2_017),  # 0.25 × 32 ÷ 238 × 60 = 2.0168 s
        (148, 0, 9_328),  # 0.25 × 148 ÷ 238 × 60 = 9.3277 s
        (238, 0, 15_000),
        (0, 1, 4_000),
        (0, 3, 8_000),
        (148, 2, 13_328),
    ],
)
def test_the_floor_is_a_quarter_of_the_reading_time_and_two_seconds_an_asset(
    words: int, assets: int, floor: int
) -> None:
    assert floor_of(words, assets) == floor


SHOWN: list[tuple[dict[str, Any], int]] = [
    # acc-17, cmp-204, bid, 1.20, 1.30, EUR
    ({}, 6),
    ({"changes": [change(), change(account=None, campaign=None, unit=None, before=None)]}, 8),
    ({"changes": [change(before="Old headline", after="A new headline", unit=None)]}, 8),
    ({"changes": ..., "rationale": "The bid is low."}, 4),
    ({"changes": ...}, 0),
    (post("One two three."), 3),
    (post("One two three.", content={"text": "One two three.", "source": "From the brief."}), 6),
    (post("One two three.", rationale="It fits.", changes=[change()]), 11),
]


@pytest.mark.parametrize(("parts", "words"), SHOWN)
def test_everything_that_a_card_shows_is_read(parts: dict[str, Any], words: int) -> None:
    assert words_shown(make_action(**parts)) == words


def test_an_action_of_148_words_takes_nine_seconds_and_a_third_and_each_asset_two_more() -> None:
    text = "word " * 148
    assert floor_ms(make_action(**post(text))) == 9_328
    action = make_action(**post(content={"text": text, "assets": [ASSET, ASSET]}))
    assert assets_shown(action) == 2
    assert floor_ms(action) == 13_328


@given(st.text(), st.text())
def test_more_text_never_takes_less_time(text: str, more: str) -> None:
    assert words_of(f"{text} {more}") >= max(words_of(text), words_of(more))
    assert floor_of(words_of(f"{text} {more}"), 1) >= floor_of(words_of(text), 0)


@given(st.lists(st.sampled_from(["Save", "today", "20", "only"]), min_size=1, max_size=60))
def test_leaving_out_spaces_makes_no_long_text_short(words: list[str]) -> None:
    letters = sum(map(len, words))
    assert words_of("".join(words)) == (1 if letters <= 40 else -(-letters // 5))
