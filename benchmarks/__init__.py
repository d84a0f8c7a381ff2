"""The benchmarks: `run` makes the committed records, `report` makes tables, figures and pages from them."""

from pathlib import Path

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
RESULTS = Path(__file__).parent / "results"
"""Folder of the committed records."""
