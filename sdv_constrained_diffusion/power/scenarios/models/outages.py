"""Which branch is out of service from draw to draw (N-1), and which may not be."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from sdv_constrained_diffusion.errors import GridError
from sdv_constrained_diffusion.power.nets import title
from sdv_constrained_diffusion.power.scenarios.models.profiles import Chunk
from sdv_constrained_diffusion.power.tables import BASE

KINDS = ('line', 'trafo')
"""Elements of which one may be out."""


@dataclass(frozen=True)
class Outages:
    """In a share of the draws one line or transformer is out of service, each as likely as any other (N-1).

    Attributes:
        share: share of the draws with an outage, from 0 to 1.
        branches: labels of those that may be out, such as 'line_3' or 'trafo_0'; None for all lines and two-winding
            transformers that carry current from bus to bus. Those without which a bus has no supply are left out.
    """

    share: float = 0.5
    branches: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        """Refuses what is out of range.

        Raises:
            GridError: the share is not in [0, 1].
        """
        if not 0 <= self.share <= 1:
            raise GridError(
                f'Outages needs a share from 0 to 1, but got {self.share:g}. Pass the share of draws with an outage.'
            )

    def candidates(self, net: Any) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Branches that may be out, and those that may not since a bus would lose its supply.

        Args:
            net: a `pandapowerNet`, left as it is.

        Raises:
            GridError: a branch is unknown, or none is left.
        """
        redundant, islanding = removable_branches(net)
        wanted = (*redundant, *islanding) if self.branches is None else self.branches
        unknown = [label for label in wanted if label not in redundant and label not in islanding]
        if unknown:
            raise GridError(
                f'Outages needs branches that carry current from bus to bus, but {unknown[0]!r} is none of '
                f'{title(net)}. Pass labels such as {", ".join(map(repr, (*redundant, *islanding)[:3]))}.'
            )
        able = tuple(label for label in wanted if label in redundant)
        if not able:
            raise GridError(
                f'Outages needs a branch whose loss leaves every bus supplied, but {title(net)} has none among '
                f'{len(wanted)} candidates. Leave the outages out, or close a ring.'
            )
        return able, tuple(label for label in wanted if label in islanding)

    def topologies(self, generator: np.random.Generator, candidates: Sequence[str], chunk: Chunk) -> list[str]:
        """Draws the topology of each draw: `BASE`, or the label of the branch that is out."""
        out = generator.random(len(chunk.numbers)) < self.share
        which = generator.integers(len(candidates), size=len(chunk.numbers))
        return [candidates[place] if each else BASE for each, place in zip(out, which, strict=True)]


def removable_branches(net: Any) -> tuple[list[str], list[str]]:
    """Lines and two-winding transformers that connect two buses, by whether every bus stays supplied without them.

    Let all slack buses hang on one more node of the network's graph. The loss of an edge cuts buses off from every
    slack if and only if the edge is a bridge.

    Args:
        net: a `pandapowerNet`, left as it is.

    Returns:
        labels of those that can be lost, and of those that cannot.
    """
    import networkx  # type: ignore[import-untyped]
    from pandapower.topology import create_nxgraph

    graph = create_nxgraph(net, include_dclines=False)
    edges = {key for *_, key in graph.edges(keys=True)}
    for slacks in (net.ext_grid, net.gen[net.gen['slack'].astype(bool)]):
        graph.add_edges_from(('supply', bus) for bus in slacks.loc[slacks['in_service'].astype(bool), 'bus'])
    bridges = {key for ends in networkx.bridges(graph) for key in graph.get_edge_data(*ends)}
    removable: list[str] = []
    islanding: list[str] = []
    for kind in KINDS:
        for index in net[kind].index:
            if (kind, index) in edges:
                (islanding if (kind, index) in bridges else removable).append(f'{kind}_{index}')
    return removable, islanding
