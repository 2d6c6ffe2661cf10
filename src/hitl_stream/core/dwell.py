"""How long reading takes at least what a card shows: the floor under which an approval cannot be the fruit of reading.

    floor = max(2 s, 0.25 × words ÷ 238 a minute) + 2 s an asset

238 words a minute is the mean of silent reading (Brysbaert 2019, doi 10.1016/j.jml.2019.104047). A quarter of that time
is no reading at all, so that nobody who skims well is accused.

- Where words are not spaced, as in Chinese, Japanese, Thai, Lao, Khmer and Burmese, five characters count as one.
- So do five characters of anything too long to be a word: spaces left out do not make a text shorter to read.
- What holds neither letter nor digit, such as a dash, is no word.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from math import ceil

from hitl_stream.core.action import Action

WORDS_PER_MINUTE = 238
SHARE = 0.25
"""Of the time that reading takes; less than that is not reading."""
FLOOR_MS_MIN = 2_000
ASSET_MS = 2_000
CHARACTERS_PER_WORD = 5
WORD_CHARACTERS_MAX = 40
"""Longer words exist, but are rare; what is longer is mostly a link, or was written without spaces."""
_UNSPACED = re.compile(
    "[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3005-\u3007\u3040-\u30ff\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff"
    "\ua9e0-\ua9ff\uaa60-\uaa7f\uf900-\ufaff\uff66-\uff9f\U0001b000-\U0001b16f\U00020000-\U0003ffff]+"
)


def words_of(text: str) -> int:
    """Return how many words a text has to its reader.

    >>> words_of("Save 20 % - today only"), words_of("今日だけ二割引です")
    (4, 2)
    """
    unspaced = sum(_letters(run, "LNM") for run in _UNSPACED.findall(text))
    return ceil(unspaced / CHARACTERS_PER_WORD) + sum(_words(token) for token in _UNSPACED.sub(" ", text).split())


def words_shown(action: Action) -> int:
    """Return how many words of an action its card shows: text, source, the agent's own words, and what it changes."""
    return sum(words_of(text) for text in _texts(action))


def assets_shown(action: Action) -> int:
    """Return how many pictures and films there are to be looked at."""
    return len(action.content.assets) if action.content is not None else 0


def floor_ms(action: Action) -> int:
    """Return the least time in which an action's card can have been read, in milliseconds, rounded up."""
    return floor_of(words_shown(action), assets_shown(action))


def floor_of(words: int, assets: int) -> int:
    """Return the floor for so many words and assets, in milliseconds, rounded up.

    >>> floor_of(148, 0), floor_of(3, 0), floor_of(148, 2)
    (9328, 2000, 13328)
    """
    reading_ms = ceil(SHARE * words * 60_000 / WORDS_PER_MINUTE)
    return max(FLOOR_MS_MIN, reading_ms) + ASSET_MS * assets


def _texts(action: Action) -> Iterator[str]:
    content = action.content
    if content is not None:
        yield content.text or ""
        yield content.source or ""
    yield action.rationale or ""
    for change in action.changes:
        entity = change.entity
        shown = (entity.account, entity.campaign, change.field, change.before, change.after, change.unit)
        yield " ".join(str(one) for one in shown if one is not None)


def _words(token: str) -> int:
    """Return as how many words something without white space counts."""
    if len(token) <= WORD_CHARACTERS_MAX:
        return int(any(map(str.isalnum, token)))
    letters = _letters(token)
    return ceil(letters / CHARACTERS_PER_WORD) if letters > WORD_CHARACTERS_MAX else min(letters, 1)


def _letters(text: str, kinds: str = "LN") -> int:
    """Count what is read: letters and digits; M: with the marks that are vowels in some scripts. No punctuation."""
    return sum(unicodedata.category(one)[0] in kinds for one in text)
