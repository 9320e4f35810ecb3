"""What becomes of trials whose processes die, and of the nodes where they do."""

import errno
from dataclasses import replace

from medcap_core.errors import DataFault, NonFiniteLoss
from sweep.execution.moves import Moves, NodeFault, is_fault_of_node
from sweep.execution.nodes import NodeSize

NODES = [NodeSize(cpus=1, id=name, name=f"host-{name}") for name in "abc"]
MISSING = NodeFault("worker 0", "data x: no such folder.", may_pass=False)
FULL = NodeFault("worker 0", "No space left on device", may_pass=True)


def test_a_process_that_dies_is_tried_again_twice() -> None:
    moves = Moves()
    answers = [moves.decide("trial_0000", {"worker 0": "a"}, None, NODES, "Killed") for _ in range(3)]
    assert [goes_on for goes_on, _ in answers] == [True, True, False]
    assert answers[2][1] == "its process failed 3 times: Killed"
    assert moves.list_avoided("trial_0000", NODES) == []


def test_the_death_of_a_node_counts_nothing_against_its_trials() -> None:
    moves = Moves()
    nodes = [replace(NODES[0], is_alive=False), *NODES[1:]]
    for _ in range(9):
        goes_on, reason = moves.decide("trial_0000", {"worker 0": "b", "worker 1": "a"}, None, nodes, "")
        assert (goes_on, reason) == (True, "the node host-a died; it goes on elsewhere from its last epoch")
    assert not moves.deaths


def test_a_fault_of_a_node_moves_the_trial_until_no_node_is_left() -> None:
    moves = Moves()
    assert moves.decide("trial_0000", {"worker 0": "a"}, MISSING, NODES, "")[0]
    assert moves.list_avoided("trial_0000", NODES) == ["a"]
    assert moves.list_avoided("trial_0001", NODES) == []
    assert moves.decide("trial_0000", {"worker 0": "b"}, FULL, NODES, "")[0]
    assert moves.decide("trial_0000", {"worker 0": "c"}, MISSING, NODES, "") == (False, MISSING.reason)
    assert Moves().decide("trial_0000", {"worker 0": "a"}, MISSING, NODES[:1], "") == (False, MISSING.reason)
    without_others = Moves(unfit=frozenset("bc"))
    assert without_others.decide("trial_0000", {"worker 0": "a"}, MISSING, NODES, "") == (False, MISSING.reason)
    assert without_others.list_avoided("trial_0000", NODES) == ["b", "c"]


def test_a_disk_that_may_recover_is_tried_again_where_there_is_no_other() -> None:
    moves = Moves()
    answers = [moves.decide("trial_0000", {"worker 0": "a"}, FULL, NODES[:1], "full")[0] for _ in range(3)]
    assert answers == [True, True, False]
    assert moves.list_avoided("trial_0000", NODES[:1]) == []


def test_a_node_where_two_trials_met_its_fault_gets_no_more_while_another_is_left() -> None:
    moves = Moves()
    for trial in ("trial_0000", "trial_0001"):
        moves.decide(trial, {"worker 0": "a"}, MISSING, NODES, "")
    assert moves.list_avoided("trial_0002", NODES) == ["a"]
    assert moves.list_avoided("trial_0002", NODES[:1]) == []  # the others died


def test_what_is_a_fault_of_a_node() -> None:
    assert is_fault_of_node(OSError(errno.ENOSPC, "No space left on device"))
    assert is_fault_of_node(DataFault("gone"))
    assert is_fault_of_node(RuntimeError("No CUDA GPUs are available"))
    assert not is_fault_of_node(NonFiniteLoss("at step 3"))
    assert not is_fault_of_node(RuntimeError("shapes do not match"))
