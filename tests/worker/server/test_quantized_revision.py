"""Workers that round a model's weights or KV serve another revision of it."""

from dataclasses import replace
from pathlib import Path

import grpc
import pytest
from typer.testing import CliRunner

from redis_servers import RedisServer
from roost_worker.config import KvDtype, Quantization
from roost_worker.convert.commands import model as model_command
from roost_worker.convert.store import ModelStore
from worker_harness import Ledger, World, reason, scripted_world, worker_config


@pytest.mark.parametrize(
    ("quantization", "kv", "name"),
    [("int8", "auto", "in int8"), ("none", "int8", "KV in int8"), ("int8", "int8", "both in int8")],
)
async def test_a_session_does_not_go_on_with_rounded_numbers_unnoticed(
    quantization: Quantization, kv: KvDtype, name: str, world: World, redis_server: RedisServer, tmp_path: Path
) -> None:
    config = worker_config(redis_server.url, tmp_path)
    plain = world.server.shell.identity.revision
    rounding = replace(config, model=replace(config.model, quantization=quantization), kv=replace(config.kv, dtype=kv))
    async with scripted_world(rounding) as rounded:
        error = await (await rounded.begin(Ledger(), model_revision=plain)).fail()
        assert (error.code(), reason(error)) == (grpc.StatusCode.FAILED_PRECONDITION, "MODEL_REVISION_MISMATCH")
        model = ModelStore(tmp_path).prepare(config.model.source, config.model.dtype)
        revision = model.revision_in(quantization, kv)
        assert rounded.server.shell.identity.revision == revision
        show = ["show", config.model.source, "--dtype", config.model.dtype, "--cache-dir", str(tmp_path)]
        shown = CliRunner().invoke(model_command, show).stdout.splitlines()
        assert f"{name:<12} {revision}" in shown
        assert (plain, len(plain)) == (model.revision_in("none", "auto"), len(revision))
