"""The time of batches, learnt from those of late."""

import pytest

from service.inference.batcher import LatencyModel


def learnt(*batches: tuple[int, float]) -> LatencyModel:
    model = LatencyModel()
    for items, duration_s in batches:
        model.observe(items, duration_s)
    return model


def test_without_a_batch_nothing_is_expected() -> None:
    assert LatencyModel().drain_s(100, 8) == 0


def test_fixed_and_growing_costs_are_told_apart() -> None:
    model = learnt(*[(n, 0.01 + 0.002 * n) for n in (1, 4, 32, 8, 16)])
    assert model.batch_s(64) == pytest.approx(0.01 + 0.128)
    assert model.drain_s(70, 64) == pytest.approx(0.138 + 0.022)


def test_batches_of_one_size_are_taken_as_growing() -> None:
    assert learnt((4, 0.4), (4, 0.4)).batch_s(8) == pytest.approx(0.8)


def test_neither_cost_is_ever_negative() -> None:
    falling = learnt((1, 1.0), (64, 0.5))
    assert falling.batch_s(1) > 0
    assert falling.batch_s(1_000) > 0
    steep = learnt((1, 0.001), (64, 10.0))
    assert steep.batch_s(1) > 0


def test_a_change_of_speed_is_believed_after_a_while() -> None:
    model = learnt(*[(n, 0.01 * n) for n in range(1, 50)], *[(n, 0.1 * n) for n in range(1, 200)])
    assert model.batch_s(10) == pytest.approx(1.0, rel=0.05)
