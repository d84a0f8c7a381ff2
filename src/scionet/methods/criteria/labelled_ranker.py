"""Rankers that are built with their name and their number of walks."""

from collections.abc import Mapping
from typing import Any

from scionet.methods.contract import Ranker


class LabelledRanker(Ranker):
    """A ranker whose fields hold its name and its number of walks through the network.

    Attributes:
        label: Name in plans and records.
        n_passes: Walks through the network.
    """

    label: str
    n_passes: int

    @property
    def name(self) -> str:
        """Name in plans and records."""
        return self.label

    @property
    def described(self) -> Mapping[str, Any]:
        """Name and passes."""
        return {"name": self.name, "passes": self.n_passes}

    @property
    def passes(self) -> int:
        """Walks through the network."""
        return self.n_passes
