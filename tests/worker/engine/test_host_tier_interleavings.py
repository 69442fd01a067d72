"""Whatever is submitted, evicted, restored and corrupted in whatever order: outputs are those without host memory."""

import random

from engine_model import EngineModel, random_operation


def test_seeded_runs_with_host_memory_under_pressure() -> None:
    offloaded = restored = corrupted = 0
    for seed in range(80):
        rng = random.Random(seed)
        model = EngineModel(
            blocks=rng.randint(4, 14),
            batch=rng.choice([4, 5, 9, 32]),
            running=rng.randint(2, 4),
            host_slots=rng.choice([1, 3, 8, 40]),
        )
        for _ in range(120):
            random_operation(model, rng)
        model.run()
        stats = model.driver.engine.stats
        offloaded += stats.offloaded_blocks
        restored += stats.restored_blocks
        corrupted += stats.corrupted_blocks
    assert offloaded > 1000
    assert restored > 100
    assert corrupted > 10
