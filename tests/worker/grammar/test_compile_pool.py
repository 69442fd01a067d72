"""Grammars are compiled in processes of their own: one that crashes, loops or grows harms nothing but itself."""

import asyncio
import json
import os
import subprocess
import sys
import textwrap
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import psutil
import pytest

from compile_steps import setup
from roost_worker.config import GrammarConfig
from roost_worker.convert.store import ModelStore
from roost_worker.grammar import (
    CompilePool,
    CompileSetup,
    CompileUnavailableError,
    GrammarError,
    build_json_schema,
    compile_pool,
    compile_process,
    tool_schema,
)

WAIT = 60.0
"""Far more seconds than anything here takes."""
LONG_CPU = 1000.0


@asynccontextmanager
async def _pool_of(pool_setup: CompileSetup) -> AsyncIterator[CompilePool]:
    """A pool that is closed at the end, and that leaves no process."""
    pool = CompilePool(pool_setup)
    children = {child.pid for child in psutil.Process().children()}
    try:
        yield pool
    finally:
        await pool.aclose()
    assert {child.pid for child in psutil.Process().children()} <= children


@pytest.fixture
async def pool() -> AsyncIterator[CompilePool]:
    async with _pool_of(setup()) as pool:
        yield pool


async def _refusal(pool: CompilePool, grammar: str) -> str:
    """Why a grammar is refused, or an empty string."""
    try:
        await pool.check(grammar, WAIT)
    except GrammarError as error:
        return str(error)
    return ""


def _pid(pool: CompilePool) -> int:
    pid = pool.processes[0].pid
    assert pid is not None
    return pid


FATAL = {
    "crash": "SIGSEGV",
    "exit": "status 7",
    "loop": "longer than 0.5 s of CPU time",
    "recurse": "SIGSEGV",
}
HARMLESS = {
    "refuse:foo": "the grammar is refused: foo",
    "panic": "the grammar breaks the library that reads it: Panic: index out of bounds",
    "allocate": "more than 64 MiB",
}


@pytest.mark.parametrize(("step", "reason"), [*FATAL.items(), *HARMLESS.items()])
async def test_what_goes_wrong_in_the_library_is_a_refusal_and_the_next_grammar_works(
    pool: CompilePool, step: str, reason: str
) -> None:
    assert await _refusal(pool, "good") == ""
    before = _pid(pool)
    assert reason in await _refusal(pool, f"step={step}")
    assert psutil.pid_exists(before) == (step not in FATAL)
    assert (_pid(pool) == before) == (step not in FATAL)
    assert await _refusal(pool, "another") == ""


async def test_a_compilation_that_hangs_is_ended_although_it_uses_no_cpu_time(
    pool: CompilePool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compile_process, "HANG_SECONDS", 0.5)
    assert await _refusal(pool, "good") == ""
    before = _pid(pool)
    assert "the grammar does not end within" in await _refusal(pool, "step=hang")
    monkeypatch.undo()
    assert _pid(pool) != before
    assert await _refusal(pool, "good") == ""


@pytest.mark.parametrize("step", ["crash", "loop", "allocate", "panic"])
async def test_grammars_of_others_are_accepted_beside_one_that_fails(pool: CompilePool, step: str) -> None:
    grammars = [f"step={step}", *(f"good {number}" for number in range(20))]
    refusals = await asyncio.gather(*(_refusal(pool, grammar) for grammar in grammars))
    assert refusals[0] != ""
    assert set(refusals[1:]) == {""}


async def test_arguments_are_checked_within_the_limits_of_grammars(pool: CompilePool) -> None:
    schema = json.dumps({"properties": {"a": {"items": {"type": "integer"}}}})
    assert await pool.violation(schema, '{"a": [1]}', WAIT) is None
    assert await pool.violation(schema, '{"a": ["x"]}', WAIT) == "$.a[0]: 'x' is not of type 'integer'"
    assert not pool.accepts(schema)
    async with _pool_of(setup(cpu_seconds=0.01)) as short:
        refusal = await short.violation(schema, json.dumps({"a": list(range(200_000))}), WAIT)
    assert refusal == "the check of the arguments takes longer than 0.01 s of CPU time; simplify the schema"


async def test_schemas_are_read_within_the_limits_of_grammars(pool: CompilePool) -> None:
    tool = await pool.tool_schema("t", '{"type": "object", "not": {}}', WAIT)
    assert tool == tool_schema("t", '{"type": "object", "not": {}}')
    assert await pool.json_schema('{"type": "string"}', WAIT) == build_json_schema('{"type": "string"}')
    with pytest.raises(GrammarError, match="tool 't': parameters_json: /type must be"):
        await pool.tool_schema("t", '{"type": 3}', WAIT)
    schema = json.dumps({"properties": {f"key-{number}": {} for number in range(4000)}})  # spans timer ticks
    async with _pool_of(setup(cpu_seconds=0.001)) as short:
        for read, subject in (
            (short.tool_schema("t", schema, WAIT), "tool 't': parameters_json"),
            (short.json_schema(schema, WAIT), "json_schema"),
        ):
            with pytest.raises(GrammarError, match=rf"^{subject}: the schema takes longer than 0\.001 s of CPU time"):
                await read


async def test_what_is_built_is_kept_within_a_bound_of_characters(
    pool: CompilePool, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def is_kept(name: str) -> bool:
        try:
            await pool.tool_schema(name, "{}", WAIT)
        except CompileUnavailableError:
            return False
        return True

    monkeypatch.setattr(compile_pool, "KEPT_CHARACTERS", 2 * len(json.dumps(tool_schema("a", "{}"))))
    long = json.dumps({"description": "x" * 1000})
    assert json.loads((await pool.tool_schema("long", long, WAIT)).text)["description"] == "x" * 1000
    assert all([await is_kept(name) for name in "abac"])
    await pool.aclose()  # what is not kept cannot be read again
    assert [await is_kept(name) for name in "abc"] == [True, False, True]


async def test_a_process_that_keeps_memory_is_replaced(pool: CompilePool) -> None:
    assert await _refusal(pool, "good") == ""
    before, resident = _pid(pool), psutil.Process(_pid(pool)).memory_info().rss
    assert await _refusal(pool, f"step=keep:{40 << 20}") == ""
    assert _pid(pool) != before
    assert await _refusal(pool, "another") == ""
    assert psutil.Process(_pid(pool)).memory_info().rss < resident + (8 << 20)


async def test_a_verdict_is_kept(pool: CompilePool, tmp_path: Path) -> None:
    calls = tmp_path / "calls"
    grammar = f"step=count:{calls}"
    assert not pool.accepts(grammar)
    for _ in range(3):
        assert await _refusal(pool, grammar) == ""
    assert pool.accepts(grammar)
    assert calls.read_text() == "x"
    before = await _refusal(pool, "step=crash"), _pid(pool)
    assert (await _refusal(pool, "step=crash"), _pid(pool)) == before
    assert not pool.accepts("step=crash")


async def test_equal_grammars_are_compiled_once(pool: CompilePool, tmp_path: Path) -> None:
    grammar = f"step=count:{tmp_path / 'calls'}"
    assert await asyncio.gather(*(_refusal(pool, grammar) for _ in range(10))) == [""] * 10
    assert (tmp_path / "calls").read_text() == "x"


async def test_the_verdicts_used_last_are_kept(pool: CompilePool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compile_pool, "KEPT_VERDICTS", 2)
    for grammar in ("a", "b", "a", "c"):
        assert await _refusal(pool, grammar) == ""
    assert [pool.accepts(grammar) for grammar in "cba"] == [True, False, True]
    assert await _refusal(pool, "d") == ""
    assert [pool.accepts(grammar) for grammar in "acd"] == [True, False, True], "a was asked about after c"


async def test_who_waits_too_long_comes_back_for_the_verdict(pool: CompilePool, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "gate")
    with pytest.raises(CompileUnavailableError, match="busy"):
        await pool.check(f"step=wait:{tmp_path / 'gate'}", 0.05)
    queued = f"step=count:{tmp_path / 'calls'}"
    with pytest.raises(CompileUnavailableError, match="busy"):
        await pool.check(queued, 0.05)
    await asyncio.to_thread((tmp_path / "gate").write_text, "x")
    assert await _refusal(pool, f"step=wait:{tmp_path / 'gate'}") == ""
    assert await _refusal(pool, "last in the line") == ""
    assert not (tmp_path / "calls").exists(), "nobody waited for it any more"
    assert await _refusal(pool, queued) == ""


async def test_a_grammar_whose_process_is_killed_from_outside_is_tried_again(pool: CompilePool, tmp_path: Path) -> None:
    assert await _refusal(pool, f"step=killed-once:{tmp_path / 'killed'}") == ""
    with pytest.raises(CompileUnavailableError, match="killed from outside"):
        await pool.check("step=killed", WAIT)
    psutil.Process(_pid(pool)).kill()
    assert await _refusal(pool, "good") == ""


async def test_a_process_that_does_not_start_is_no_verdict() -> None:
    async with _pool_of(setup("build_nothing")) as pool:
        for _ in range(2):
            with pytest.raises(CompileUnavailableError, match="status 1 before it was ready"):
                await pool.check("good", WAIT)
        assert pool.processes[0].pid is None


async def test_closing_ends_a_compilation_and_leaves_nothing_open(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "begun")
    before = set(os.listdir("/proc/self/fd"))
    async with _pool_of(setup(cpu_seconds=LONG_CPU, processes=2)) as pool:
        checks = [
            asyncio.create_task(pool.check(grammar, WAIT))
            for grammar in ("good", f"step=loop:{tmp_path / 'begun'}", "step=loop", "queued")
        ]
        await asyncio.to_thread((tmp_path / "begun").read_text)
        await pool.aclose()
        results = await asyncio.gather(*checks, return_exceptions=True)
        assert [type(result) for result in results[1:]] == [CompileUnavailableError] * 3
        with pytest.raises(CompileUnavailableError, match="the worker stops"):
            await pool.check("late", WAIT)
    assert set(os.listdir("/proc/self/fd")) <= before


PARENT = textwrap.dedent(
    """
    import asyncio, sys
    from compile_steps import setup
    from roost_worker.grammar import CompilePool

    async def main():
        pool = CompilePool(setup(cpu_seconds=1000.0))
        await pool.check("good", 60.0)
        print(pool.processes[0].pid, flush=True)
        await pool.check(f"step=loop:{sys.argv[1]}", 60.0)

    asyncio.run(main())
    """
)


def test_a_compilation_dies_with_its_worker(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    fifo = tmp_path / "begun"
    os.mkfifo(fifo)
    command = [sys.executable, "-c", PARENT, str(fifo)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as parent:
        try:
            assert parent.stdout is not None
            child = psutil.Process(int(parent.stdout.readline()))
            fifo.read_text()
        finally:
            parent.kill()
        _, alive = psutil.wait_procs([child], timeout=WAIT)
        for process in alive:
            process.kill()
        assert alive == []


@pytest.fixture(scope="module")
def real_setup(tmp_path_factory: pytest.TempPathFactory) -> CompileSetup:
    model_dir = ModelStore(tmp_path_factory.mktemp("store")).prepare("dummy://llama-tiny", "float32").path
    return CompileSetup(str(model_dir / "tokenizer.json"), (258, 256), 264)


async def test_the_real_library_gives_verdicts(real_setup: CompileSetup) -> None:
    async with _pool_of(real_setup) as pool:
        assert await _refusal(pool, build_json_schema('{"type": "object"}')) == ""
        assert "Unsatisfiable schema: minimum (1)" in await _refusal(pool, build_json_schema(_nothing_above(0)))
        assert await _refusal(pool, "no grammar") == (
            "the grammar is refused: it is too large or too complex; simplify the schema"
        )


def _nothing_above(number: int) -> str:
    """A schema that no value satisfies."""
    return json.dumps({"type": "integer", "minimum": number + 1, "maximum": number})


NESTS: dict[str, Callable[[dict[str, object]], dict[str, object]]] = {
    "array": lambda inner: {"type": "array", "items": inner},
    "object": lambda inner: {"properties": {"p": inner}},
    "map": lambda inner: {"type": "object", "additionalProperties": inner},
    "anyOf": lambda inner: {"anyOf": [inner, {"type": "null"}]},
    "allOf": lambda inner: {"allOf": [inner, {"title": "x"}]},
    "anyOf in an object": lambda inner: {"properties": {"p": {"anyOf": [inner, {"type": "null"}]}}, "required": ["p"]},
}


async def test_the_deepest_schema_that_is_built_fits_the_stack(real_setup: CompileSetup) -> None:
    async with _pool_of(real_setup) as pool:
        for name, wrap in NESTS.items():
            document: dict[str, object] = {"type": "string"}
            while _is_built(wrap(document)):
                document = wrap(document)
            assert (name, await _refusal(pool, build_json_schema(json.dumps(document)))) == (name, "")


def _is_built(document: dict[str, object]) -> bool:
    try:
        build_json_schema(json.dumps(document))
    except GrammarError:
        return False
    return True


async def test_a_thousand_refusals_leave_memory_as_it_was(real_setup: CompileSetup) -> None:
    def resident() -> int:
        return psutil.Process().memory_info().rss + psutil.Process(_pid(pool)).memory_info().rss

    async def refuse(number: int) -> None:
        assert "Unsatisfiable" in await _refusal(pool, build_json_schema(_nothing_above(number)))

    async with _pool_of(real_setup) as pool:
        for number in range(20):
            await refuse(number)
        before = resident()
        for number in range(1000):
            await refuse(1000 + number)
        assert resident() < before * 1.05


@pytest.mark.parametrize(
    ("values", "fault"),
    [
        ({"processes": 0}, "grammar.processes: 0 must be at least 1"),
        ({"cpu_seconds": 0.0}, "grammar.cpu_seconds"),
        ({"memory_bytes": -1}, "grammar.memory_bytes"),
        ({"wait_seconds": float("nan")}, "grammar.wait_seconds"),
    ],
)
def test_limits_that_allow_nothing_are_refused(values: dict[str, float], fault: str) -> None:
    with pytest.raises(ValueError, match=fault):
        GrammarConfig(**values)  # type: ignore[arg-type]  # one of each kind
