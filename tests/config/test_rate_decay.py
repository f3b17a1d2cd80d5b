"""The decay of warmup_stable_decay: as a number of steps, as a fraction, and what is refused."""

import math

import pytest
import torch
from transformers import SchedulerType, get_scheduler

from cloze.config.rate_decay import check_decay, check_rates, resolve_decay
from cloze.errors import UserError


@pytest.mark.parametrize(
    ("given", "warmup", "steps", "expected"),
    [
        (0.2, 100, 1000, 200),
        (0.25, 0, 10, 2),  # rounded down
        (0.001, 0, 10, 1),
        (0.7, 3, 10, 7),
        (7, 3, 10, 7),
        (0.2, 10**8, 10**9, 2 * 10**8),
    ],
)
def test_fraction_is_of_all_steps(given, warmup, steps, expected):
    kwargs = {"num_decay_steps": given, "decay_type": "linear"}
    assert resolve_decay(kwargs, warmup, steps) == {"num_decay_steps": expected, "decay_type": "linear"}
    assert kwargs["num_decay_steps"] == given


def test_rate_is_as_computed_by_hand():
    """Two steps of warmup, four at the peak, four of decay."""
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    kwargs = resolve_decay({"num_decay_steps": 0.4, "decay_type": "linear"}, 2, 10)
    scheduler = get_scheduler("warmup_stable_decay", optimizer, 2, 10, kwargs)
    rates = []
    for _ in range(11):
        rates.append(scheduler.get_last_lr()[0])
        optimizer.step()
        scheduler.step()
    assert rates == [0.0, 0.5, 1.0, 1.0, 1.0, 1.0, 1.0, 0.75, 0.5, 0.25, 0.0]


@pytest.mark.parametrize(("given", "warmup"), [(8, 3), (0.8, 3), (11, 0)])
def test_warmup_and_decay_longer_than_the_run_are_refused(given, warmup):
    with pytest.raises(UserError, match=f"and {warmup} of warmup .* are more than the 10 steps of the run"):
        resolve_decay({"num_decay_steps": given}, warmup, 10)
    # The run then ends in the decay, as asked for.
    assert resolve_decay({"num_decay_steps": 8, "num_stable_steps": 5}, 3, 10)["num_decay_steps"] == 8


@pytest.mark.parametrize(
    ("kwargs", "has_time_limit", "message"),
    [
        ({}, False, "--lr_scheduler_type warmup_stable_decay needs --lr_scheduler_kwargs '{\"num_decay_steps\": 0.2}'"),
        ({"num_decay_steps": 0}, False, "num_decay_steps 0 is not positive"),
        ({"num_decay_steps": math.nan}, False, "num_decay_steps nan is not positive"),
        ({"num_decay_steps": math.inf}, False, "num_decay_steps inf is not a number of steps"),
        ({"num_decay_steps": 2.5}, False, "num_decay_steps 2.5 is not a number of steps"),
        ({"num_decay_steps": "many"}, False, "num_decay_steps many is not positive"),
        ({"num_decay_steps": True}, False, "num_decay_steps True is not positive"),
        ({"num_decay_steps": 100}, True, "give num_decay_steps as a fraction, such as 0.2"),
        ({"num_decay_steps": 0.2, "num_stable_steps": 9}, True, "no num_stable_steps"),
    ],
)
def test_decay_without_meaning_is_refused(kwargs, has_time_limit, message):
    with pytest.raises(UserError) as error:
        check_decay(kwargs, has_time_limit)
    assert message in str(error.value)


@pytest.mark.parametrize("kwargs", [{"num_decay_steps": 0.2}, {"num_decay_steps": 5, "num_stable_steps": 5}])
def test_decay_with_meaning_is_accepted(kwargs):
    check_decay(kwargs, has_time_limit=False)
    check_decay({"num_decay_steps": 0.2}, has_time_limit=True)


@pytest.mark.parametrize(
    ("name", "kwargs", "problem"),
    [
        ("polynomial", {"lr_end": -0.5}, "the learning rate would be -0.125 times its peak at step 9"),
        ("cosine", {"num_cycles": math.nan}, "the learning rate would be 0 after the warmup"),
        ("warmup_stable_decay", {"num_decay_steps": 2, "num_stable_steps": -3}, "would be 0 after the warmup"),
        ("polynomial", {"power": math.nan}, "the learning rate would be nan times its peak at step 4"),
    ],
)
def test_rates_without_meaning_are_refused(name, kwargs, problem):
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    with pytest.raises(UserError, match=problem):
        check_rates(get_scheduler(name, optimizer, 2, 10, kwargs), 2, 10)


@pytest.mark.parametrize("name", [each.value for each in SchedulerType])
@pytest.mark.parametrize(("warmup", "steps"), [(0, 1), (1, 1), (3, 10), (0, 12_345)])
def test_rates_of_usual_schedules_are_accepted(name, warmup, steps):
    needed = {
        "warmup_stable_decay": {"num_decay_steps": 1},
        "cosine_with_min_lr": {"min_lr_rate": 0.1},
        "cosine_warmup_with_min_lr": {"min_lr_rate": 0.1},
    }
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    check_rates(get_scheduler(name, optimizer, warmup, steps, needed.get(name)), warmup, steps)
