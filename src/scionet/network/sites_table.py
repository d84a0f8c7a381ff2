"""The sites of a network as a plain-text table, which `print(discover(model, example_inputs))` shows."""

import textwrap
from collections.abc import Iterable, Sequence
from math import prod
from typing import TYPE_CHECKING

from scionet.network.phrases import counted, first_and_count, shortened

if TYPE_CHECKING:
    from scionet.network.sites import Operation, Refusal, Site, Sites

_COLUMNS = 100
_NARROWEST = 13
"""Characters of the producers and of the consumers, where long names of sites leave less room for them."""
_FIRST, _LAST = 24, 4
"""Sites at the beginning and at the end of the network that a long table shows."""
_REASONS = 8
"""Groups of refusals that are shown."""
_LEGEND = (
    "MACs: the part of the network's multiply-accumulates that shrinks with the site. Most layers shrink with two "
    "sites, so the column can add up to more than 100 %."
)


def sites_table(sites: "Sites") -> str:
    """The table of all sites, or of the first and last ones of a long network, and what stays whole and why."""
    units = sum(site.width for site in sites.values())
    title = f"{sites.model_name or 'Network'}: {counted(len(sites), 'site')}, {counted(units, 'unit')}"
    branches = [_branches(sites)] if sites.branches or sites.refused_branches else []
    legend, whole = textwrap.fill(_LEGEND, _COLUMNS), _left_whole(sites.refused)
    return "\n\n".join([title, _rows(sites), legend, *branches, whole])


def mac_shares(sites: "Sites") -> dict[str, float]:
    """The fraction of the network's MACs that depends on each site: the part removed with all its units."""
    total = sum(operation.macs for operation in sites.counted) or 1.0
    shares = {}
    for name, site in sites.items():
        parts = {(slot.tensor, slot.dim): slot.index.size / sites.shapes[slot.tensor][slot.dim] for slot in site.slots}
        shares[name] = sum(op.macs * _fraction(op, site, parts) for op in sites.counted) / total
    return shares


def _fraction(operation: "Operation", site: "Site", parts: dict[tuple[str, int], float]) -> float:
    """The fraction of one operation's MACs that shrinks with a site; `parts` are its fractions of tensor dimensions."""
    if operation.weight is None:
        own = [extent.per_unit.get(site.name, 0) * site.width / extent.size for extent in operation.extents]
    else:
        own = [parts.get((operation.weight, dim), 0.0) for dim in (0, 1)]
    return 1 - prod(1 - part for part in own)


def refusal_reasons(refused: Iterable["Refusal"]) -> list[str]:
    """One line for each reason to leave channels whole, with the first of the sites that it concerns."""
    alike: dict[tuple[str, str], list[Refusal]] = {}
    for refusal in refused:
        alike.setdefault((refusal.operation, refusal.advice), []).append(refusal)
    return [
        ", ".join(refusal.site for refusal in group[:3])
        + (f" and {len(group) - 3} more" if len(group) > 3 else "")
        + f": {operation} in {group[0].module or 'the network'}: {advice}"
        for (operation, advice), group in alike.items()
    ]


def _rows(sites: "Sites") -> str:
    """The table with its header; the middle of a long one is replaced by a line that says where to find it."""
    found = list(sites.values())
    hidden = len(found) - _FIRST - _LAST
    shown = found if hidden <= 1 else [*found[:_FIRST], *found[-_LAST:]]
    shares = mac_shares(sites)
    names = max(len(text) for text in ("site", *(site.name for site in shown)))
    room = max(_NARROWEST, (_COLUMNS - names - len("  width  channel     ->      MACs  ")) // 2)
    ends = [(first_and_count(site.producers, room), first_and_count(site.consumers, room)) for site in shown]
    first, second = (
        max(len(text) for text in column) for column in zip(("producers", "consumers"), *ends, strict=True)
    )
    lines = [
        f"{'site':{names}}  {'width':>6}  {'unit':7}  {'producers':{first}}    {'consumers':{second}}  {'MACs':>7}"
    ]
    for site, (producers, consumers) in zip(shown, ends, strict=True):
        lines.append(
            f"{site.name:{names}}  {site.width:>6,}  {site.unit:7}  {producers:{first}} -> {consumers:{second}}  "
            f"{100 * shares[site.name]:>5.1f} %"
        )
    if hidden > 1:
        lines.insert(1 + _FIRST, f"... {counted(hidden, 'more site')}; list(sites) names all")
    return "\n".join(lines)


def _branches(sites: "Sites") -> str:
    """The residual branches that can be dropped, and those that cannot, with reasons."""
    names = [shortened(name, _COLUMNS // 2) for name in sites.branches]
    shown = names if len(names) <= _FIRST else [*names[:_FIRST], f"and {len(names) - _FIRST} more in sites.branches"]
    count = f"{len(names)} residual {'branch' if len(names) == 1 else 'branches'} can be dropped"
    lines = [textwrap.fill(f"{count}: {', '.join(shown)}" if names else count, _COLUMNS, subsequent_indent="  ")]
    if sites.refused_branches:
        lines += ["Branches that cannot:", *_reasons(sites.refused_branches, "sites.refused_branches")]
    return "\n".join(lines)


def _left_whole(refused: Sequence["Refusal"]) -> str:
    """What stays whole, why, and what to do about it."""
    if not refused:
        return "Nothing is left whole."
    return "\n".join(["Left whole:", *_reasons(refused, "sites.refused")])


def _reasons(refused: Sequence["Refusal"], where: str) -> list[str]:
    """The first reasons, one below the other; `where` is the attribute that lists all."""
    reasons = refusal_reasons(refused)
    lines = [textwrap.fill(f"- {reason}", _COLUMNS, subsequent_indent="  ") for reason in reasons[:_REASONS]]
    if len(reasons) > _REASONS:
        lines.append(f"... {counted(len(reasons) - _REASONS, 'more reason')}; {where} lists all")
    return lines
