"""Workers that round a model's weights serve another revision of it."""

from dataclasses import replace
from pathlib import Path

import grpc
from typer.testing import CliRunner

from redis_servers import RedisServer
from roost_worker.convert.commands import model as model_command
from roost_worker.convert.store import ModelStore
from worker_harness import Ledger, World, reason, scripted_world, worker_config


async def test_a_session_does_not_go_on_with_rounded_weights_unnoticed(
    world: World, redis_server: RedisServer, tmp_path: Path
) -> None:
    config = worker_config(redis_server.url, tmp_path)
    plain = world.server.shell.identity.revision
    async with scripted_world(replace(config, model=replace(config.model, quantization="int8"))) as rounded:
        error = await (await rounded.begin(Ledger(), model_revision=plain)).fail()
        assert (error.code(), reason(error)) == (grpc.StatusCode.FAILED_PRECONDITION, "MODEL_REVISION_MISMATCH")
        model = ModelStore(tmp_path).prepare(config.model.source, config.model.dtype)
        assert rounded.server.shell.identity.revision == model.revision_in("int8")
        show = ["show", config.model.source, "--dtype", config.model.dtype, "--cache-dir", str(tmp_path)]
        shown = CliRunner().invoke(model_command, show).stdout.splitlines()
        assert f"in int8      {rounded.server.shell.identity.revision}" in shown
        assert (plain, len(plain)) == (model.revision_in("none"), len(model.revision_in("int8")))
