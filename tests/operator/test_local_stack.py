"""A whole pool on this machine: real Redis, gateways and workers, a tiny random model."""

import asyncio
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from roost import Client, Sampling, Session, ToolChoice, ToolChoiceMode
from roost_operator.api.loader import load_pool
from roost_operator.api.spec import AgentPool
from roost_operator.demo.tools import CALCULATE
from roost_operator.demo.verify import CommittedLog, Judge
from roost_operator.local import redis, runner
from roost_operator.local.ports import PortTakenError, free_port
from roost_operator.local.processes import ProcessFailedError
from roost_operator.local.runner import LocalStack, StackError, StackOptions
from roost_operator.local.state_dir import StateDirectoryError
from roost_worker.cache import default_cache_dir
from roost_worker.convert.errors import ConvertError
from stack_leftovers import left_behind

ROOT = Path(__file__).parents[2]
SAMPLE = ROOT / "manifests" / "samples" / "pool-dummy.yaml"
GREEDY = Sampling(temperature=0.0, max_tokens=8)


@pytest.fixture
def pool() -> AgentPool:
    return load_pool(SAMPLE)


@pytest.fixture
def options(tmp_path: Path) -> Iterator[StackOptions]:
    """Options of a stack on free ports; afterwards nothing of it may be left."""
    yield StackOptions(state_dir=tmp_path / "state", port=0, ray=False, cache_dir=tmp_path / "cache")
    assert left_behind(tmp_path) == []


async def test_sessions_survive_whatever_is_killed_and_a_restart_of_everything(
    pool: AgentPool, options: StackOptions
) -> None:
    async with LocalStack(pool, options) as stack, await Client.connect(stack.targets) as client:
        session = await client.open(role="agent", system="Be brief.", tools=[CALCULATE])
        asked = await session.run("Sum.", format=ToolChoice(ToolChoiceMode.REQUIRED), max_tokens=96, temperature=0.0)
        assert asked.tool_calls[0].name == "calculate"
        await session.hold(tool="calculate", expect_seconds=1)
        assert await session.evict() > 0
        for victim in (stack.redis, stack.gateways[0], stack.workers[0]):
            victim.kill()
            await session.run("Go on.", sampling=GREEDY)
        await readme_example_runs(stack.targets)
        await the_oracle_agrees(stack, session)
        before = [step async for step in session.steps(include_token_ids=True)]
    assert [step.index for step in before] == [0, 1, 2, 3]
    assert before[0].output_token_ids == asked.token_ids
    assert before[1].usage.reconstructed_tokens > 0
    async with LocalStack(pool, options) as stack, await Client.connect(stack.targets) as client:
        session = client.session(session.id)
        assert [step async for step in session.steps(include_token_ids=True)] == before
        after = await session.run("Go on.", sampling=GREEDY)
        assert after.committed.index == 4
        assert after.usage.reconstructed_tokens > 0


async def the_oracle_agrees(stack: LocalStack, session: Session) -> None:
    """And would not with a log that was tampered with."""
    steps = [step async for step in session.steps(include_token_ids=True)]
    other = (steps[1].output_token_ids[0] + 1) % 256
    altered = replace(steps[1], output_token_ids=(other, *steps[1].output_token_ids[1:]))
    async with Judge(stack.model_dir, stack.options.state_dir / "oracle.log") as judge:
        verdict = await judge.verify([CommittedLog(steps, [CALCULATE])])
        assert verdict.token_exact, verdict
        assert verdict.positions == sum(len(step.output_token_ids) for step in steps)
        assert not (await judge.verify([CommittedLog([steps[0], altered, *steps[2:]], [CALCULATE])])).token_exact


async def readme_example_runs(targets: tuple[str, ...]) -> None:
    """Runs the code of README.md against these gateways."""
    (example,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), flags=re.S)
    here = example.replace('["127.0.0.1:7433", "127.0.0.1:7434"]', repr(list(targets)))
    assert here != example
    code = await asyncio.create_subprocess_exec(sys.executable, "-W", "error", "-c", here, stdout=subprocess.PIPE)
    out, _ = await code.communicate()
    assert code.returncode == 0
    assert re.search(r"default/dummy/\w{26}: \d+ tokens committed", out.decode())


async def test_a_taken_port_stops_the_start(pool: AgentPool, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(PortTakenError, match=f"port {port} .* gateway 1 of 2 .*--port"):
            async with LocalStack(pool, StackOptions(state_dir=tmp_path, port=port, ray=False)):
                pass


async def test_gateways_cannot_have_one_port_for_grpc_and_http(pool: AgentPool, tmp_path: Path) -> None:
    port = free_port("127.0.0.1")
    options = StackOptions(state_dir=tmp_path, port=port, http_port=port, gateways=1, ray=False)
    with pytest.raises(PortTakenError, match=f"{port} cannot serve gRPC and HTTP; .*--http-port"):
        async with LocalStack(pool, options):
            pass


async def test_a_part_that_fails_takes_the_others_down(pool: AgentPool, options: StackOptions) -> None:
    refused = AgentPool.model_validate(
        {**pool.model_dump(by_alias=True), "spec": {**pool.spec.model_dump(by_alias=True), "models": [too_wide(pool)]}}
    )
    with pytest.raises(ProcessFailedError, match=r"(?s)worker-1 .*tensorParallel"):
        async with LocalStack(refused, options):
            pass


async def test_workers_wait_for_a_model_that_must_be_converted(
    pool: AgentPool, options: StackOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fails(*_: object) -> None:
        raise ConvertError("no network")

    monkeypatch.setattr(runner, "is_at_hand", lambda *_: False)
    monkeypatch.setattr(runner, "prepare_model", fails)
    with pytest.raises(ConvertError, match="no network"):
        async with LocalStack(pool, options):
            pass
    assert not (options.state_dir / "logs").exists()


def too_wide(pool: AgentPool) -> dict[str, object]:
    """The pool's model over more ranks than it can be cut into."""
    return {**pool.spec.model.model_dump(by_alias=True), "tensorParallel": 7}


def cache_with_kernels(tmp_path: Path) -> Path:
    """A cache without models. The machine's kernels are in it: to compile them may take minutes beside other tests."""
    cache, kernels = tmp_path / "cache", default_cache_dir() / "kernels"
    cache.mkdir(exist_ok=True)
    kernels.mkdir(parents=True, exist_ok=True)
    if not (cache / "kernels").exists():
        (cache / "kernels").symlink_to(kernels)
    return cache


def up(tmp_path: Path, *arguments: str) -> "subprocess.Popen[str]":
    """`roost up` of the sample without Ray."""
    command = [sys.executable, "-c", "from roost.cli import main; main()", "up", "-f", str(SAMPLE), "--no-ray"]
    environment = {**os.environ, "ROOST_STATE": str(tmp_path), "ROOST_CACHE": str(cache_with_kernels(tmp_path))}
    return subprocess.Popen([*command, *arguments], stderr=subprocess.PIPE, text=True, env=environment)


def read_until(process: "subprocess.Popen[str]", text: str) -> str:
    """What the process wrote up to a line that holds `text`."""
    assert process.stderr is not None
    lines = []
    for line in process.stderr:
        lines.append(line)
        if text in line:
            return "".join(lines)
    raise AssertionError(f"{text!r} never came:\n{''.join(lines)}")


def test_up_serves_until_a_signal_and_leaves_nothing(tmp_path: Path) -> None:
    port = free_port("127.0.0.1")
    with up(tmp_path, "--port", str(port), "--gateways", "1") as process:
        output = read_until(process, "is up")
        assert f"127.0.0.1:{port}" in output
        second = subprocess.run(
            [sys.executable, "-c", "from roost.cli import main; main()", "up", "-f", str(SAMPLE)],
            env={**os.environ, "ROOST_STATE": str(tmp_path)},
            capture_output=True,
            text=True,
            check=False,
        )
        assert second.returncode == 1
        assert "--state-dir" in second.stderr
        process.send_signal(signal.SIGTERM)
        assert process.wait() == 0
    assert left_behind(tmp_path) == []


def test_a_bad_key_file_is_refused_before_anything_starts(tmp_path: Path) -> None:
    (tmp_path / "keys.yaml").write_text("keys: [{id: a}]\n")
    with up(tmp_path, "--port", "0", "--api-keys", str(tmp_path / "keys.yaml")) as process:
        assert process.wait() == 1
        assert process.stderr is not None
        assert process.stderr.read().startswith("error: api_keys_file")
    assert {path.name for path in tmp_path.iterdir()} == {"cache", "keys.yaml"}, "there is a state directory"


def test_a_signal_while_starting_leaves_nothing(tmp_path: Path) -> None:
    with up(tmp_path, "--port", "0") as process:
        read_until(process, "starting Redis, 1 worker and 2 gateways")
        process.send_signal(signal.SIGINT)
        process.send_signal(signal.SIGINT)
        assert process.wait() == 130
    assert left_behind(tmp_path) == []


def test_an_owner_that_is_killed_takes_everything_along(tmp_path: Path) -> None:
    with up(tmp_path, "--port", "0") as process:
        read_until(process, "is up")
        process.kill()
    remaining = [psutil.Process(pid) for pid in psutil.pids() if told_of(pid, tmp_path)]
    assert psutil.wait_procs(remaining, timeout=60)[1] == []


def told_of(pid: int, directory: Path) -> bool:
    try:
        return str(directory) in " ".join(psutil.Process(pid).cmdline())
    except psutil.Error:
        return False


def suspended(pool: AgentPool) -> AgentPool:
    """The pool without workers."""
    return AgentPool.model_validate(
        {**pool.model_dump(by_alias=True), "spec": {**pool.spec.model_dump(by_alias=True), "suspend": True}}
    )


@pytest.mark.parametrize(("host", "address"), [("::1", "[::1]"), ("localhost", "localhost")])
async def test_gateways_listen_on_any_loopback_address(
    pool: AgentPool, options: StackOptions, host: str, address: str
) -> None:
    async with (
        LocalStack(suspended(pool), replace(options, host=host)) as stack,
        await Client.connect(stack.targets[1]) as client,
    ):
        assert [target.rpartition(":")[0] for target in stack.targets] == [address] * 2
        assert [session async for session in client.sessions(pool=pool.pool)] == []


async def test_a_redis_that_refuses_to_write_says_why(
    pool: AgentPool, options: StackOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redis, "_CONFIG", f"{redis._CONFIG}min-replicas-to-write 1\n")
    with pytest.raises(StackError, match=r"(?s)refuses to write: fewer replicas .*redis\.log:.*Ready to accept"):
        async with LocalStack(suspended(pool), options):
            pass


async def test_a_start_removes_what_a_killed_stack_left(
    pool: AgentPool, options: StackOptions, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    tempfile.mkdtemp(prefix="roost-ray-")
    async with LocalStack(suspended(pool), options):
        assert not [name for name in os.listdir(tmp_path) if name.startswith("roost-ray-")]


async def test_a_state_directory_has_one_owner(pool: AgentPool, options: StackOptions) -> None:
    async with LocalStack(suspended(pool), options):
        with pytest.raises(StateDirectoryError, match="in use by process"):
            async with LocalStack(suspended(pool), options):
                pass
