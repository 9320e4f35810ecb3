"""A process without a group; `tests/medcap_core/training/test_parallel.py` has groups."""

from medcap_core.runtime.workers import Workers, current_workers


def test_a_process_without_a_group_is_the_only_worker() -> None:
    workers = current_workers()
    assert workers == Workers(rank=0, size=1)
    assert workers.leads
    assert workers.gather("mine") == ["mine"]
    assert workers.broadcast("mine") == "mine"
