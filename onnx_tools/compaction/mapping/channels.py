"""Channels that go together: numbers, ties between them, and reasons to stay.

A channel is what can leave a model: one output of a layer, with all that reads and carries it. Each is a number. Rules
tie numbers that stay or go together, and fix numbers that must stay; then all ties are resolved at once.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Ids = NDArray[np.int64]

_MOST = 1 << 24
"""Channels that are followed in one model; each takes a few dozen bytes."""


@dataclass(frozen=True, eq=False)
class Groups:
    """Channels after all ties. `of`: the group of each channel, the lowest number in it.

    `held`: whether a group stays, by its number; `reasons`: why, but for channels that no layer makes. `families`: the
    family of each channel: groups of one family are the choices of one layer, or of layers that are tied to each other;
    0 for channels that no layer makes. `origins`: for each family the nodes that make its channels.
    """

    of: Ids
    held: NDArray[np.bool_]
    reasons: dict[int, str]
    families: Ids
    origins: dict[int, tuple[str, ...]]

    @property
    def free(self) -> Ids:
        """The groups that may leave, ascending."""
        found: Ids = np.unique(self.of[~self.held[self.of]])
        return found


class Channels:
    """Gives out channels and remembers what is said about them."""

    def __init__(self) -> None:
        self._count = 0
        self._origins: list[tuple[int, int, str]] = []
        self._ties: list[tuple[Ids, Ids]] = []
        self._fixed: list[tuple[Ids, str]] = []

    def new(self, count: int, origin: str = "") -> Ids:
        """`count` new channels, made by the node `origin`; "": by none."""
        if self._count + count > _MOST:
            return self.staying(count, "the model has more channels than can be followed")
        first = self._count
        self._count += count
        if origin:
            self._origins.append((first, count, origin))
        return np.arange(first, self._count)

    def staying(self, count: int, reason: str) -> Ids:
        """`count` entries that stay, because of `reason`."""
        one = np.array([self._count])
        self._count += 1
        self.fix(one, reason)
        return np.broadcast_to(one, (count,))

    def tie(self, some: Ids, others: Ids) -> None:
        """These stay or go together, element by element; the arrays are broadcast against each other."""
        if some is not others:
            first, second = np.broadcast_arrays(some, others)
            self._ties.append((first, second))

    def fix(self, ids: Ids, reason: str) -> None:
        """These stay, because of `reason`."""
        self._fixed.append((ids, reason))

    def resolve(self) -> Groups:
        """Who goes with whom, by all that was said so far."""
        groups = _components(self._count, self._ties)
        held = np.zeros(self._count, bool)
        reasons: dict[int, str] = {}
        for ids, reason in self._fixed:
            found = np.unique(groups[ids.reshape(-1)])
            new = found[~held[found]]
            held[new] = True
            reasons.update(dict.fromkeys(new.tolist(), reason))
        families, origins = self._families(groups)
        return Groups(groups, held | (families == 0), reasons, families, origins)

    def _families(self, roots: Ids) -> tuple[Ids, dict[int, tuple[str, ...]]]:
        """Nodes whose channels are tied to each other make one family."""
        own = np.zeros(self._count, np.int64)
        for number, (first, count, _) in enumerate(self._origins, 1):
            own[first : first + count] = number
        made = np.flatnonzero(own)
        of_group = np.zeros(self._count, np.int64)
        np.maximum.at(of_group, roots[made], own[made])
        joined = _components(len(self._origins) + 1, [(own[made], of_group[roots[made]])])
        members: dict[int, list[str]] = {}
        for number, (_, _, origin) in enumerate(self._origins, 1):
            members.setdefault(int(joined[number]), []).append(origin)
        return joined[of_group[roots]], {family: tuple(dict.fromkeys(names)) for family, names in members.items()}


def _components(count: int, edges: list[tuple[Ids, Ids]]) -> Ids:
    """The lowest number connected with each of 0 ... count - 1: hooking and pointer jumping, in few passes."""
    parent: NDArray[Any] = np.arange(count)
    if not edges:
        return parent
    ends = np.concatenate([np.stack([a.reshape(-1), b.reshape(-1)]) for a, b in edges], 1)
    while ends.shape[1]:
        some, others = parent[ends[0]], parent[ends[1]]
        apart = some != others
        ends, some, others = ends[:, apart], some[apart], others[apart]
        np.minimum.at(parent, np.maximum(some, others), np.minimum(some, others))
        while (parent != parent[parent]).any():
            parent = parent[parent]
    return parent
