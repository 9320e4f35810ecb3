"""How long simulated searches take, and what stopping weak trials spares."""

from sweep.dry_run.simulation import TrialCost, simulate_searches
from sweep.space import build_space
from sweep.space.schema import SearchSpace

FOUR_EPOCHS = TrialCost("full", begin_seconds=1.0, epoch_seconds=2.0, num_epochs=4)


def grid(num_rows: int, **changes: object) -> SearchSpace:
    values = {"name": "any", "sampler": "grid", "search": {"batch_size": {"grid": list(range(1, num_rows + 1))}}}
    return build_space(values | {"scheduler": "none"}, "test").model_copy(update=changes)


def search(trials: int, **changes: object) -> SearchSpace:
    values = {"name": "any", "search": {"learning_rate": {"uniform": [0.1, 0.2]}}, "trials": trials}
    return build_space(values, "test").model_copy(update=changes)


def test_the_last_trial_may_run_alone() -> None:
    trials = [TrialCost("full", 1.0, 2.0, num_epochs) for num_epochs in (2, 3, 4, 1)]  # 5, 7, 9 and 3 s
    (simulated,) = simulate_searches(grid(4), [], trials, num_at_once=2)
    # 0-5 and 5-14 in the first place, 0-7 and 7-10 in the second.
    assert (simulated.seconds, simulated.trial_seconds, simulated.share_run) == (14.0, 24.0, 1.0)
    (one_by_one,) = simulate_searches(grid(4), [], trials, num_at_once=1)
    assert one_by_one.seconds == 24.0


def test_first_points_come_first() -> None:
    given = [TrialCost("lora", 0.0, 100.0, 1)]
    one = simulate_searches(search(1, scheduler="none"), given, [FOUR_EPOCHS], num_at_once=2)
    assert {simulated.seconds for simulated in one} == {100.0}
    three = simulate_searches(search(3, scheduler="none"), given, [FOUR_EPOCHS], num_at_once=1)
    assert {simulated.seconds for simulated in three} == {100.0 + 2 * 9}


def test_weak_trials_are_stopped() -> None:
    shares = [simulated.share_run for simulated in simulate_searches(search(40), [], [FOUR_EPOCHS], num_at_once=2)]
    assert all(0.25 < share < 1.0 for share in shares)
    harder = simulate_searches(search(40, reduction_factor=4), [], [FOUR_EPOCHS], num_at_once=2)
    assert sum(simulated.share_run for simulated in harder) < sum(shares)
    short = TrialCost("full", 1.0, 2.0, num_epochs=1)
    assert {simulated.share_run for simulated in simulate_searches(search(9), [], [short], num_at_once=2)} == {1.0}
    rows = [FOUR_EPOCHS] * 5
    assert simulate_searches(grid(5, scheduler="asha"), [], rows, num_at_once=1)[0].share_run < 1.0
    (compared,) = simulate_searches(grid(5, scheduler="asha", test="all"), [], rows, num_at_once=1)
    assert compared.share_run == 1.0


def test_some_trials_stand_for_many() -> None:
    many = simulate_searches(search(1000, scheduler="none"), [], [FOUR_EPOCHS], num_at_once=2)
    assert {simulated.seconds for simulated in many} == {1000 * 9 / 2}
