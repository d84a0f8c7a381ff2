"""What a network computes depending on its data: contractions whose MACs vary, and other paths through its forward.

A branch or the number of a detector's proposals cannot be seen in one pass. Passes are compared instead: of the dense
and of masked networks on the same inputs, and of the dense network on calibration batches.
"""

import copy
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import pairwise

from scionet.errors import CalibrationError
from scionet.network.calling import Batch, divides, example_count, first_of, joined
from scionet.network.discovery.provisional_cut import provisional_plan, verified_sites
from scionet.network.network import Network
from scionet.network.operations import RunOperation, Signature, macs_by_place, run_operations
from scionet.network.plan import Choice, Plan
from scionet.network.sites import Sites


def with_varying_operations(network: Network, batch: Batch) -> Sites:
    """The sites, with the operations marked whose MACs differ between the dense network and masked ones.

    Args:
        network: The dense network.
        batch: Inputs on its device.
    """
    sites = network.sites
    narrow = Plan(tuple(Choice(name, site.width, (0,), (1.0,)) for name, site in sites.items()))
    return marked_as_varying(sites, varying_places(network, (provisional_plan(sites, sites), narrow), batch))


def marked_as_varying(sites: Sites, places: Collection[str]) -> Sites:
    """The sites, with the operations at these places marked as depending on the data."""
    marked = (replace(each, varies=True) if each.place in places else each for each in sites.operations)
    return replace(sites, operations=tuple(marked))


def varying_places(network: Network, plans: Sequence[Plan], batch: Batch) -> frozenset[str]:
    """Where the masked networks of plans need other MACs than the dense network on the same batch.

    A masked network has the shapes of the dense one, so the MACs differ only where the data decide them.
    """
    dense = macs_by_place(run_operations(network, batch))
    varying: set[str] = set()
    for plan in plans:
        masked = macs_by_place(run_operations(network, batch, network.masked_by(plan)))
        varying |= {place for place in dense.keys() | masked.keys() if dense.get(place) != masked.get(place)}
    return frozenset(varying)


class Paths:
    """The paths that batches take through the forward of a network. Sites must be cuttable on all of them.

    A path is new if two operations follow one another that never did before. The number of turns of a loop makes no new
    path; another number of examples can make one, which does no harm, since a path is tried before it is refused.

    Attributes:
        found: Batches on other paths than the example, each path once.
        one_by_one: Whether the forward loops over examples: how often consumers run depends on their number. Also where
            it runs on no other number.
    """

    def __init__(self, network: Network, example: Batch) -> None:
        self.found: list[Batch] = []
        self._network, self._sites = network, network.sites
        operations = run_operations(network, example)
        self._known, self._consumers = _steps(operations), self._consumers_of(operations)
        self.one_by_one = self._loops_over(example)

    def see(self, batch: Batch) -> None:
        """Compare the path of a batch with those that are known, and try a provisional cut of all sites on a new one.

        Raises:
            CalibrationError: If sites cannot be cut there, or their consumers run in another order or number; the text
                names the sites, and where the paths part.
        """
        operations = run_operations(self._network, batch)
        steps = _steps(operations)
        new = next((step for step in steps if step not in self._known), None)
        where = ""
        if new is not None:
            (before, *_), (operator, module, *_) = new
            where = f" ({operator!r} follows {before!r} in {module or 'the network itself'})"
            left = verified_sites(self._network, self._network.placed(batch))
            self._refuse({each.site: each.advice for each in left.refused if each.site in self._sites}, where)
            self._known |= steps
            self.found.append(copy.deepcopy(batch))
        self._refuse(self._moved(self._consumers_of(operations)), where)

    def _loops_over(self, example: Batch) -> bool:
        """Whether consumers run more or less often on another number of examples, or the forward fails on it."""
        if not divides(example):
            return False
        other = first_of(example, 1) if example_count(example) > 1 else joined([example, example])[0]
        try:
            return Counter(self._consumers_of(run_operations(self._network, other))) != Counter(self._consumers)
        except Exception:  # a forward, which is code of the user, may demand a number of examples
            return True

    def _consumers_of(self, operations: Iterable[RunOperation]) -> list[str]:
        """The consumers of sites in the order of their calls."""
        counted = (each for each in operations if each.macs is not None)
        return [weight for each in counted for weight in each.weights if weight in self._sites.consumers]

    def _moved(self, consumers: list[str]) -> dict[str, str]:
        """Sites with consumers whose calls differ from those on the example, and how."""
        differ = set((Counter(consumers) - Counter(self._consumers)) + (Counter(self._consumers) - Counter(consumers)))
        if not differ and consumers != self._consumers:
            differ = {a for a, b in zip(consumers, self._consumers, strict=True) if a != b}
        return {
            name: f"{weight} runs in another order, or {consumers.count(weight)} times in place of "
            f"{self._consumers.count(weight)}"
            for name, site in self._sites.items()
            for weight in site.consumers
            if weight in differ
        }

    def _refuse(self, reasons: Mapping[str, str], where: str) -> None:
        """Refuse a path for the given reasons, by site.

        Raises:
            CalibrationError: If there are such sites.
        """
        if not reasons:
            return
        names = list(reasons)
        more = f" and {len(names) - 4} more sites" if len(names) > 4 else ""
        raise CalibrationError(
            f"the forward of {type(self._network.model).__name__} takes another path on calibration data than on "
            f"example_inputs{where}, on which it cannot be pruned at {', '.join(names[:4])}{more}: "
            f"{reasons[names[0]]}. Give a batch of these data as example_inputs, or leave the layers whole: "
            f"ignored_layers={names[:4]}"
        )


_Step = tuple[Signature, Signature]


def _steps(operations: Sequence[RunOperation]) -> dict[_Step, None]:
    """Each pair of consecutive operations of a pass, in order of their first occurrence."""
    return dict.fromkeys(pairwise(each.signature for each in operations))
