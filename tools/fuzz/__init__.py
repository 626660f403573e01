"""Hostile files for every reader: `python -m tools.fuzz` (`make fuzz`). What is promised stands in docs/security.md."""
