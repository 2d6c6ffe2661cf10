"""Where an action lives: the partition that its account's order is kept in.

A move between two campaigns and a change of one of them must meet in one partition, or order, limits and facts split.
So the account decides; an action without one goes by its agent.
"""

from __future__ import annotations

from functools import lru_cache

from hitl_stream.core.action import Action, Entity

_M = 0x5BD1E995
_MASK = 0xFFFFFFFF


def murmur2(data: bytes) -> int:
    """Return Kafka's 32-bit murmur2 of `data`, unsigned (the Java client's default partitioner, seed 0x9747b28c)."""
    length = len(data)
    h = 0x9747B28C ^ length
    whole = length & ~3
    for i in range(0, whole, 4):
        k = int.from_bytes(data[i : i + 4], "little") * _M & _MASK
        k = (k ^ (k >> 24)) * _M & _MASK
        h = (h * _M & _MASK) ^ k
    rest = data[whole:]
    if rest:
        h = (h ^ int.from_bytes(rest, "little")) * _M & _MASK
    h = (h ^ (h >> 13)) * _M & _MASK
    return h ^ (h >> 15)


def partition_of(place: bytes, partitions: int) -> int:
    """Return the partition of a key as Kafka's murmur2 partitioner does."""
    return (murmur2(place) & 0x7FFFFFFF) % partitions


@lru_cache(maxsize=65_536)
def home(tenant: str, account_or_agent: str, partitions: int) -> int:
    """Return the home partition of everything in `tenant/account` (of `tenant/agent`, where there is no account)."""
    return partition_of(f"{tenant}/{account_or_agent}".encode(), partitions)


def home_of(action: Action, tenant: str, entity: Entity, partitions: int) -> int:
    """Return the home partition of an action whose entity is `entity`."""
    return home(tenant, entity.account or action.agent.id, partitions)


def key_of(tenant: str, entity: Entity, agent: str) -> bytes:
    """Return the Kafka key of an entity: `tenant/account[/campaign]`, or `tenant/agent` where there is no account."""
    if entity.account is None:
        return f"{tenant}/{agent}".encode()
    if entity.campaign is None:
        return f"{tenant}/{entity.account}".encode()
    return f"{tenant}/{entity.account}/{entity.campaign}".encode()
