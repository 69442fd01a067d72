"""How prefill is shared: light prompts beside heavy ones, and no more than keeps decoding sequences at their pace."""

from hypothesis import given
from hypothesis import strategies as st

from engine_driver import EngineDriver
from roost_worker.engine.prefill import LEAST_CHUNK_TOKENS, ChunkSize, light_share, shares

PROMPTS = st.lists(st.tuples(st.integers(0, 2), st.integers(1, 200)), max_size=8).map(
    lambda prompts: sorted(prompts, key=lambda prompt: prompt[0])
)


@given(PROMPTS, st.integers(0, 100), st.integers(1, 100))
def test_a_share_never_exceeds_what_is_left_and_nothing_is_wasted(
    left: list[tuple[int, int]], tokens: int, light_tokens: int
) -> None:
    given_tokens = shares(left, tokens, light_tokens)
    assert all(0 <= part <= missing for part, (_, missing) in zip(given_tokens, left, strict=True))
    assert sum(given_tokens) == min(tokens, sum(missing for _, missing in left))


@given(PROMPTS.filter(bool), st.integers(0, 100), st.integers(1, 100))
def test_the_first_prompt_keeps_its_half(left: list[tuple[int, int]], tokens: int, light_tokens: int) -> None:
    assert shares(left, tokens, light_tokens)[0] >= min(left[0][1], tokens - light_share(tokens))


@given(PROMPTS.filter(bool), st.integers(0, 100), st.integers(1, 100))
def test_light_prompts_of_the_first_class_get_the_other_half_in_order(
    left: list[tuple[int, int]], tokens: int, light_tokens: int
) -> None:
    given_tokens = shares(left, tokens, light_tokens)
    share = light_share(tokens)
    for (priority, missing), part in zip(left, given_tokens, strict=True):
        if priority == left[0][0] and missing <= light_tokens:
            assert part >= min(missing, share)
            share -= min(missing, share)


def test_a_lower_class_gets_nothing_of_the_light_half() -> None:
    assert shares([(0, 100), (1, 3)], 16, 16) == [16, 0]


@given(
    fixed=st.floats(0.001, 0.5),
    per_token=st.floats(0.0001, 0.05),
    goal=st.floats(0.05, 1.0),
    most=st.integers(1, 4096),
)
def test_the_chunk_settles_where_a_batch_takes_as_long_as_the_goal(
    fixed: float, per_token: float, goal: float, most: int
) -> None:
    chunk = ChunkSize(most, goal)
    for _ in range(200):
        chunk.observe(chunk.tokens, fixed + per_token * chunk.tokens)
    least = min(most, LEAST_CHUNK_TOKENS)
    assert least <= chunk.tokens <= most
    too_long = fixed + per_token * chunk.tokens > goal * 1.2 + 2 * per_token
    too_short = fixed + per_token * chunk.tokens < goal * 0.8 - 2 * per_token
    assert not too_long or chunk.tokens == least
    assert not too_short or chunk.tokens == most


def test_a_batch_with_little_prefill_does_not_make_the_chunk_larger() -> None:
    chunk = ChunkSize(256, 0.1)
    chunk.observe(256, 0.2)
    assert chunk.tokens == 128
    chunk.observe(5, 0.01)
    assert chunk.tokens == 128
    chunk.observe(128, 0.05)
    assert chunk.tokens == 256


def test_without_a_goal_the_chunk_is_the_batch() -> None:
    chunk = ChunkSize(256, 0.0)
    chunk.observe(256, 10.0)
    assert chunk.tokens == 256


def batches_until_first_token(driver: EngineDriver, name: str) -> int:
    batches = 0
    while not driver.answers[name].outputs:
        assert driver.iterate() is not None
        batches += 1
    return batches


@given(
    heavy=st.lists(st.integers(17, 200), min_size=1, max_size=3),
    light=st.lists(st.integers(1, 16), min_size=1, max_size=3),
    data=st.data(),
)
def test_light_prompts_do_not_wait_for_heavy_ones(heavy: list[int], light: list[int], data: st.DataObject) -> None:
    """The bound that `Scheduler` states, with slots and room for all."""
    batch = 16
    driver = EngineDriver(blocks=400, context=256, running=8, batch=batch)
    for index, tokens in enumerate(heavy):
        driver.submit(f"heavy {index}", [index + 1] * tokens, max_tokens=1)
    for _ in range(data.draw(st.integers(0, 6), label="batches before")):
        driver.iterate()
    for index, tokens in enumerate(light):
        driver.submit(f"light {index}", [40 + index] * tokens, max_tokens=1)
    # A heavy prompt's last batch is light too.
    bound = -(-(sum(light) + batch) // light_share(batch)) + 1
    for index in range(len(light)):
        bound -= batches_until_first_token(driver, f"light {index}")
    assert bound >= 0
    driver.run()


def test_a_stream_of_light_prompts_leaves_a_heavy_one_half_of_each_batch() -> None:
    driver = EngineDriver(blocks=400, context=256, running=8, batch=16)
    driver.submit("heavy", [1] * 160, max_tokens=1)
    batches = 0
    while not driver.answers["heavy"].outputs:
        driver.submit(f"light {batches}", [2 + batches] * 12, max_tokens=1)
        driver.iterate()
        batches += 1
    assert batches <= 2 * 160 // 16


def test_an_urgent_prompt_goes_before_a_heavy_one_that_runs() -> None:
    driver = EngineDriver(blocks=400, context=256, running=8, batch=16)
    driver.submit("heavy", [1] * 200, max_tokens=1, priority=1)
    driver.iterate()
    driver.submit("urgent", [2] * 40, max_tokens=1, priority=0)
    assert batches_until_first_token(driver, "urgent") == 3
    assert not driver.answers["heavy"].outputs
    driver.run()


def test_running_sequences_keep_their_pace_beside_a_heavy_prompt() -> None:
    """The fake runner says that every batch takes 10 ms."""
    driver = EngineDriver(blocks=400, context=256, running=8, batch=64, step_goal_seconds=0.005)
    driver.submit("decoding", [1, 2], max_tokens=20)
    driver.iterate()
    driver.submit("heavy", [3] * 200, max_tokens=1)
    driver.run()
    chunks = [len(chunk.token_ids) for plan in driver.runner.plans[1:] for chunk in plan.chunks[1:]]
    assert chunks[:3] == [63, 32, 32]
