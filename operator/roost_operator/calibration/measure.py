"""Measures what an engine's work costs: prompts on an idle engine, batches that only decode, copies of KV."""

import asyncio
from array import array
from bisect import bisect_right
from collections.abc import Callable
from random import Random
from statistics import median

from roost_operator.calibration.points import (
    DecodePoint,
    Engine,
    PrefillPoint,
    decode_output,
    decode_sizes,
    prefill_sizes,
)
from roost_operator.calibration.timed_engine import Answer, TimedEngine

Report = Callable[[str], None]
COPIED_PART = 0.7
"""Of the longest context; two sessions of it do not fit KV for one context."""


class Measurement:
    """Points of an engine, each the median of `repeats`. Prompts are random, so that nothing is cached unasked."""

    def __init__(self, engine: TimedEngine, limits: Engine, vocabulary: int, repeats: int, report: Report) -> None:
        self._engine = engine
        self._limits = limits
        self._vocabulary = vocabulary
        self._repeats = repeats
        self._report = report
        self._random = Random("calibration")

    async def warm_up(self) -> None:
        """Run the longest prompt and some decoding: what comes first also pays for memory that is touched first."""
        await self._prefill(self._limits.context_tokens - 2, 0)
        await self._decode(1, self._limits.context_tokens // 4)

    async def prefills(self) -> list[PrefillPoint]:
        """Return the points of `prefill_sizes`."""
        points = []
        for tokens, cached in prefill_sizes(self._limits):
            answers = [await self._prefill(tokens, cached) for _ in range(self._repeats)]
            seconds = median(answer.ttft_seconds for answer in answers)
            ready = answers[0].cached_tokens
            points.append(PrefillPoint(tokens + cached - ready, ready, seconds))
            self._report(f"a prompt of {tokens} tokens after {ready} cached: {seconds * 1000:.2f} ms")
        return points

    async def decodes(self) -> list[DecodePoint]:
        """Return the points of `decode_sizes`."""
        points = []
        for rows, prompt in decode_sizes(self._limits):
            repeats = [await self._decode(rows, prompt) for _ in range(self._repeats)]
            seconds = median(point.seconds for point in repeats)
            points.append(DecodePoint(rows, repeats[0].kv_tokens, seconds))
            self._report(f"a batch of {rows} rows over {repeats[0].kv_tokens} tokens: {seconds * 1000:.2f} ms")
        return points

    async def copy_token_seconds(self) -> float:
        """Return what it takes to copy a token's KV between the device and host memory.

        The engine has host memory, and KV for one context: two sessions in turn displace each other. Raise ValueError
        when it copies nothing.
        """
        tokens, key = int(COPIED_PART * self._limits.context_tokens), self._random.randbytes(8)
        prompts = {name: self._prompt(tokens) for name in ("first", "second")}
        for _ in range(1 + self._repeats):
            for name, ids in prompts.items():
                await self._engine.run(name, ids, 1, key)
        rate = self._engine.stats.restore_rate
        if not rate:
            raise ValueError("no copy between the device and host memory was measured; raise --context-tokens")
        self._report(f"copies to and from host memory: {rate:,.0f} tokens of KV a second")
        return 1 / rate

    async def _prefill(self, tokens: int, cached: int) -> Answer:
        ids, key = self._prompt(tokens + cached), self._random.randbytes(8)
        if cached:
            await self._engine.run("prompt", ids[:cached], 1, key)
        answer = await self._engine.run("prompt", ids, 1, key)
        self._engine.evict("prompt")
        return answer

    async def _decode(self, rows: int, prompt_tokens: int) -> DecodePoint:
        output = decode_output(self._limits, rows, prompt_tokens)
        names, key = [f"row-{row}" for row in range(rows)], self._random.randbytes(8)
        runs = (self._engine.run(name, self._prompt(prompt_tokens), output, key) for name in names)
        answers = await asyncio.gather(*runs)
        for name in names:
            self._engine.evict(name)
        return decode_point(answers, prompt_tokens)

    def _prompt(self, tokens: int) -> "array[int]":
        return array("I", self._random.choices(range(self._vocabulary), k=tokens))


def decode_point(answers: list[Answer], prompt_tokens: int) -> DecodePoint:
    """Return the mean batch while all rows decoded: from the last row's first token to the first row's last one."""
    begin = max(answer.token_times[0] for answer in answers)
    end = min(answer.token_times[-1] for answer in answers)
    times = [time for time in answers[0].token_times if begin <= time <= end]
    middle = (begin + end) / 2
    context = sum(prompt_tokens + bisect_right(answer.token_times, middle) for answer in answers)
    return DecodePoint(len(answers), context, (times[-1] - times[0]) / (len(times) - 1))
