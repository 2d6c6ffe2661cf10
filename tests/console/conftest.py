"""Databases for the tests of the console."""

from __future__ import annotations

from support.postgres import postgres, postgres_server

__all__ = ["postgres", "postgres_server"]
