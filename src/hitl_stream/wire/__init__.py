"""Bytes and names: how actions and decisions look on Kafka. Still no I/O."""
