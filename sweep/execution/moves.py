"""Decide what becomes of a trial whose process died: it is tried again, moved to another node, or fails."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from medcap_core.errors import DataFault, ModelFault
from medcap_core.runtime.device import is_lost_device
from sweep.execution.nodes import NodeSize

MOST_RETRIES = 2
MOST_FAULTS_OF_A_NODE = 2
"""A node where that many trials met a fault of the node gets no more."""


@dataclass(frozen=True)
class NodeFault:
    """A fault of the node of one of a trial's processes; `may_pass` says that a second try there may succeed."""

    process: str
    reason: str
    may_pass: bool


def is_fault_of_node(error: BaseException) -> bool:
    """Return whether an error says nothing against a config: data and models were read before, by the driver."""
    return isinstance(error, OSError | DataFault | ModelFault) or is_lost_device(error)


@dataclass
class Moves:
    """What trials and nodes went through so far; no trial runs on the `unfit` nodes, given by id."""

    unfit: frozenset[str] = frozenset()
    deaths: Counter[str] = field(default_factory=Counter)
    avoided: dict[str, set[str]] = field(default_factory=dict)
    faults: dict[str, set[str]] = field(default_factory=dict)

    def list_avoided(self, trial: str, nodes: Sequence[NodeSize]) -> list[str]:
        """List the nodes that a trial keeps off, by id; only unfit ones if else none were left of the `nodes`."""
        bad = {node for node, trials in self.faults.items() if len(trials) >= MOST_FAULTS_OF_A_NODE}
        avoided = self.unfit | self.avoided.get(trial, set()) | bad
        is_any_left = any(node.is_alive and node.cpus and node.id not in avoided for node in nodes)
        return sorted(avoided if is_any_left else self.unfit)

    def decide(
        self, trial: str, places: Mapping[str, str], fault: NodeFault | None, nodes: Sequence[NodeSize], cause: str
    ) -> tuple[bool, str]:
        """Return whether the trial goes on, and a sentence about it or the reason of its failure.

        `places` has the node's id of each of its processes; `nodes` are all of the cluster, dead ones too; `cause` is
        the error Ray kept. A node's death counts nothing against its trials, and its fault moves them while another
        node is left.
        """
        names = {node.id: node.name for node in nodes}
        for node in nodes:
            if node.id in places.values() and not node.is_alive:
                return True, f"the node {node.name} died; it goes on elsewhere from its last epoch"
        if fault is not None:
            at_fault = places[fault.process]
            self.avoided.setdefault(trial, set()).add(at_fault)
            if at_fault in self.list_avoided(trial, nodes):
                self.faults.setdefault(at_fault, set()).add(trial)
                at = f"the node {names.get(at_fault, at_fault)} ({fault.reason.rstrip('.')})"
                return True, f"cannot go on at {at}; it goes on elsewhere"
            if not fault.may_pass:
                return False, fault.reason
        self.deaths[trial] += 1
        if self.deaths[trial] <= MOST_RETRIES:
            return True, "its process died; another goes on from its last epoch (see log.txt)"
        return False, f"its process failed {self.deaths[trial]} times: {cause}"
