"""The dashboards, one module each, and the words that they are written in."""
