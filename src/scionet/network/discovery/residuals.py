"""Finds residual branches in the data flow of a forward pass: the summands of ``x + f(x)`` and ``shortcut(x) + f(x)``.

Summands are compared with the last value x that all of them depend on. A summand that is x itself is the shortcut.
Without one, the summand with fewest layers is. Every other summand is a branch, if nothing else reads what is computed
in it, and if modules compute all of it that costs anything.
"""

from collections.abc import Iterator, Sequence

from scionet.network.discovery.branch_modules import FoundBranch, NotReplaceable, Summand, is_layer
from scionet.network.discovery.dataflow import DataFlow, bits, numbers_in
from scionet.network.discovery.tracing import Trace
from scionet.network.sites import Refusal

_SUMS = frozenset({"add", "add_"})


def residual_branches(trace: Trace) -> tuple[list[FoundBranch], list[Refusal]]:
    """All residual branches of a network, in order of execution, and those that cannot be replaced, with reasons."""
    flow, found, refused = trace.flow, list[FoundBranch](), list[Refusal]()
    for sums, terms in _additions(flow):
        for term, source, inside in _branches_of(flow, terms):
            summand = Summand(trace, term, source, inside, bits(sums))
            try:
                found.append(summand.found(_other(terms, term)))
            except NotReplaceable as reason:
                refused.append(Refusal(summand.name, *reason.args))
    return found, refused


def _additions(flow: DataFlow) -> Iterator[tuple[set[int], list[int]]]:
    """Sums of activations: the operations of each, and its summands. A sum that only a sum reads is a part of that."""

    def is_sum(number: int) -> bool:
        node = flow.nodes[number]
        return (
            node.operation in _SUMS
            and len(node.reads) == 2
            and all(flow.nodes[read].shape == node.shape for read in node.reads)
        )

    def is_part(number: int) -> bool:
        return is_sum(number) and len(flow.readers[number]) == 1 and number not in flow.kept

    def parts(number: int) -> Iterator[int]:
        yield number
        for read in flow.nodes[number].reads:
            if is_part(read):
                yield from parts(read)

    for number in filter(is_sum, range(len(flow.nodes))):
        if not (is_part(number) and all(map(is_sum, flow.readers[number]))):
            sums = set(parts(number))
            yield sums, [read for each in sorted(sums) for read in flow.nodes[each].reads if read not in sums]


def _branches_of(flow: DataFlow, terms: Sequence[int]) -> Iterator[tuple[int, int, int]]:
    """The summands of a sum that are branches, each with the value that it starts from and its operations, as bits."""
    common = flow.before[terms[0]]
    for term in terms[1:]:
        common &= flow.before[term]
    if not common:
        return
    source = common.bit_length() - 1  # the last value that all depend on
    after = flow.after(source)
    inside = {term: flow.before[term] & after for term in terms}
    layers = {term: sum(is_layer(flow.nodes[n]) for n in numbers_in(own)) for term, own in inside.items()}
    least = min(layers, key=layers.__getitem__)
    clear = source in inside or list(layers.values()).count(layers[least]) == 1
    shortcut = source if source in inside else least
    for term, own in inside.items():
        if clear and term != shortcut and layers[term]:
            yield term, source, own


def _other(terms: Sequence[int], term: int) -> int | None:
    """The other one of two summands."""
    return next(each for each in terms if each != term) if len(terms) == 2 else None
