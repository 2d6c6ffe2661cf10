"""A browser for the tests of the console's pages."""

from __future__ import annotations

from support.browser import browser, context, page, seen, shoot

__all__ = ["browser", "context", "page", "seen", "shoot"]
