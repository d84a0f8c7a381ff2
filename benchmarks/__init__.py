"""Commands that make the records of the documentation (`run`), and its tables and figures from them (`report`)."""

from pathlib import Path

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
RESULTS = Path(__file__).parent / "results"
"""Folder of the committed records."""
