"""Outputs to compare, for demos: one prompt, two captions that a model might have written, and which is better is asked.

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
PROMPTS: Final = tuple(
    f"Write a caption for {platform}: {what}."
    for platform, what in product(
        ("LinkedIn", "X", "Instagram"),
        ("the spring sale ends on Sunday", "our new office opens in Leipzig", "a customer saved six hours a week"),
    )
)
OPENINGS: Final = ("Good news:", "Did you know?", "Worth a look:", "Big, bigger, ours:", "In short:")
MIDDLES: Final = (
    "six hours saved each week, and nobody stayed late.",
    "the doors open on Monday, with coffee.",
    "until Sunday everything costs a fifth less.",
    "you will not believe what happened next!",
    "it is simply the best there is.",
)
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
        a, b = rng.sample([*product(OPENINGS, MIDDLES, ENDINGS)], 2)
        yield Pair(
            pair=f"pair-{seed}-{number + 1}",
            tenant=TENANT,
            account=ACCOUNT,
            prompt=rng.choice(PROMPTS),
            a=" ".join(a).strip(),
            b=" ".join(b).strip(),
        )
