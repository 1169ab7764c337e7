"""The plan of images and resolutions: equal shares of every pair, and few forward passes."""

from __future__ import annotations

from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import pytest

from charloom.train.schedule import Schedule


def visits(schedule: Schedule, steps: int) -> list[tuple[int, int]]:
    return [visit for step in range(1, steps + 1) for visit in schedule.visits(step)]


@pytest.mark.parametrize("draws", [1, 2, 3, 4, 8])
@pytest.mark.parametrize(("images", "sizes", "others"), [(30, 3, 0), (7, 3, 0), (2, 2, 0), (10, 3, 4), (5, 1, 3)])
def test_every_pair_has_its_turn_before_any_has_another(images, sizes, others, draws):
    """At any step, not only at the end of a round; regularisation images among themselves."""
    resolutions = [range(sizes)] * (images + others)
    schedule = Schedule(42, range(images), range(images, images + others), resolutions, draws)
    seen: Counter = Counter()
    for step in range(1, 3 * images * sizes // draws + 2):
        seen.update(schedule.visits(step))
        for part in (range(images), range(images, images + others)):
            counts = [seen[image, size] for image in part for size in range(sizes)]
            assert not counts or max(counts) - min(counts) <= 1
    assert not others or sum(n for (item, _), n in seen.items() if item >= images) == seen.total() // 2


def test_an_epoch_shows_every_image_in_an_order_of_its_own():
    found = visits(Schedule(42, range(10), [], [(64, 96, 128)] * 10, 1), 60)
    epochs = [found[start : start + 10] for start in range(0, 60, 10)]
    assert all(sorted(item for item, _ in epoch) == list(range(10)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 6
    # Sizes take turns within an epoch, so that no stretch of the run knows one size only.
    assert all(len({size for _, size in epoch[3:6]}) == 3 for epoch in epochs)


def test_repeats_and_resolutions_of_their_own():
    """Image 0 counts three times, image 1 has two sizes and image 2 one: fewer sizes do not make a smaller share."""
    schedule = Schedule(1, [0, 0, 0, 1, 2], [], [(64, 96, 128), (64, 96), (128,)], 1)
    seen = Counter(visits(schedule, 5 * 6))
    assert seen == {**{(0, s): 6 for s in (64, 96, 128)}, (1, 64): 3, (1, 96): 3, (2, 128): 6}


@pytest.mark.parametrize(
    ("images", "others", "draws", "most"),
    [(30, 0, 1, 1.0), (12, 0, 4, 1.0), (30, 0, 4, 1.06), (150, 0, 4, 1.01), (30, 10, 4, 1.0), (30, 0, 8, 1.17)],
)
def test_a_step_is_of_one_resolution_wherever_that_can_be(images, others, draws, most):
    """Resolutions in a step, on average: each is a forward pass of its own."""
    schedule = Schedule(
        42, range(images), range(images, images + others), [(512, 768, 1024)] * (images + others), draws
    )
    found = [len({size for _, size in schedule.visits(step)}) for step in range(1, 361)]
    assert sum(found) / len(found) <= most


def test_a_step_is_the_same_whatever_was_asked_before():
    def fresh(seed: int = 42) -> Schedule:
        return Schedule(seed, range(9), range(9, 12), [(64, 96)] * 12, 3)

    forwards, other = fresh(), fresh()
    expected = {step: list(forwards.visits(step)) for step in range(1, 40)}
    for step in (39, 7, 7, 8, 1, 20):
        assert other.visits(step) == expected[step]
    assert fresh(43).visits(5) != expected[5]


def test_several_threads_may_ask_at_once():
    schedule = Schedule(7, list(range(6)), [], [[64, 128, 192]] * 6, 2)
    alone = [list(schedule.visits(step)) for step in range(1, 41)]
    with ThreadPoolExecutor(4) as pool:
        asked = [step for _ in range(20) for step in range(1, 41)]
        found = list(pool.map(lambda step: list(schedule.visits(step)), asked))
    assert found == [alone[step - 1] for step in asked]
