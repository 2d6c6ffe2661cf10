"""Outputs to compare, for demos: a prompt, two captions that a model might have written; which is better is asked.

With a seed they are the same ones each time.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from itertools import product
from typing import Any, Final

from aiokafka import AIOKafkaProducer

from hitl_stream.wire.desk_records import Pair
from hitl_stream.wire.records import encode
from hitl_stream.wire.topics import TopicSet

PAIRS: Final = 24
"""Somebody compares one in some seconds; a demo is over before they are."""
TENANT = "acme"
ACCOUNT = "acc-17"
PLATFORMS: Final = ("LinkedIn", "X", "Instagram")
SAID: Final[Mapping[str, tuple[str, ...]]] = {
    "the spring sale ends on Sunday": (
        "Until Sunday everything costs a fifth less.",
        "You will not believe these prices!",
        "The spring sale ends on Sunday at midnight, in every shop.",
    ),
    "our new office opens in Leipzig": (
        "The doors in Leipzig open on Monday, with coffee.",
        "Simply the best office there is, now in Leipzig.",
        "From Monday on, you find us in Leipzig, too.",
    ),
    "a customer saved six hours a week": (
        "Six hours saved each week, and nobody stayed late.",
        "This one trick saves everybody six hours!",
        "A customer tells how a week became six hours shorter.",
    ),
}
"""What there is to say, and ways of saying it."""
OPENINGS: Final = ("Good news:", "Worth a look:", "In short:", "")
ENDINGS: Final = ("Come and see.", "Tell us what you think.", "Act now!!!", "")

# aiokafka has no types; as Any its calls pass under strict.
_Producer: Any = AIOKafkaProducer


async def publish_pairs(client: Mapping[str, Any], topics: TopicSet, seed: int) -> None:
    """Append `PAIRS` pairs to the topic `pairs`."""
    producer = _Producer(**client, acks="all")
    await producer.start()
    try:
        for pair in pairs(seed):
            await producer.send(topics.name("pairs"), encode(pair), key=pair.pair.encode())
        await producer.flush()
    finally:
        await producer.stop()


def pairs(seed: int, count: int = PAIRS) -> Iterator[Pair]:
    """Return so many pairs, each of two captions that differ."""
    rng = random.Random(f"pairs {seed}")
    for number in range(count):
        what = rng.choice([*SAID])
        a, b = (" ".join(parts).strip() for parts in rng.sample([*product(OPENINGS, SAID[what], ENDINGS)], 2))
        prompt = f"Write a caption for {rng.choice(PLATFORMS)}: {what}."
        yield Pair(pair=f"pair-{seed}-{number + 1}", tenant=TENANT, account=ACCOUNT, prompt=prompt, a=a, b=b)
