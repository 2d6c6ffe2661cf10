"""The policy that the benchmarks route with: 20 classes and 40 rules, a score, windows, gates."""

from __future__ import annotations

from typing import Any

import orjson

MAX_AGE = "15s"
"""So that the window of ids (1 M a process) carries 60,000 actions a second."""


def text(classes: int = 20, rules: int = 40) -> str:
    """Return the policy file (JSON is YAML)."""
    names = ["bid.adjust", "budget.reallocate", "creative.publish", *(f"class.{i}" for i in range(classes - 3))]
    spec: dict[str, dict[str, Any]] = {
        name: {
            "level": 3,
            "consequence": ["financial"],
            "queue": "trading",
            "auto_max_change": "0.20",
            "auto_min_confidence": "0.60",
            "auto_max_amount": {"EUR": "5.00"},
            "auto_max_change_per": {"1m": "0.50"},
            "max_age": MAX_AGE,
        }
        for name in names
    }
    spec["budget.reallocate"] |= {"auto_max_change": "0.10", "auto_min_confidence": "0.80"}
    spec["creative.publish"] = {"level": 2, "consequence": ["client_content"], "queue": "trading", "max_age": MAX_AGE}
    # Two rules for each class, so that what names an action's class is a twentieth of the file, as in a grown policy.
    written = [
        {
            "id": f"rule-{i}",
            "classes": [names[i % classes]],
            "match": {"context.segment": {"is": f"segment-{i}"}} if i % 2 else {"destination": {"in": [f"place-{i}"]}},
            "then": "review",
        }
        for i in range(rules)
    ]
    return orjson.dumps(
        {
            "policy": "bench",
            "currency": "EUR",
            "defaults": {"queue": "triage", "max_age": MAX_AGE, "unusual_window": "15s"},
            "agents": {"bidder-*": {"owner": "dana"}},
            "fields": {"context.segment": "text", "destination": "text"},
            "queues": {
                "triage": {"roles": ["senior"], "sla": "1h", "owner": "ops"},
                "trading": {"roles": ["trader"], "sla": "15m", "owner": "desk", "next": "triage"},
            },
            "classes": spec,
            "rules": written,
            "bands": {"review": 0.5, "escalate": 0.8},
        }
    ).decode()
