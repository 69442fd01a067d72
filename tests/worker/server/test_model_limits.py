"""A worker says where its model is limited: in its log, in its lease and in `roost model show`."""

import logging
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from redis_servers import RedisServer
from roost.contract.model_limits import ModelLimit
from roost_worker.convert.commands import model
from roost_worker.convert.store import ModelStore
from roost_worker.render.description import TemplateDescription
from worker_harness import scripted_world, worker_config

SHOWS_NO_TOOLS = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def with_template(cache: Path, source: str) -> None:
    """Gives the prepared model another chat template."""
    path = ModelStore(cache).prepare("dummy://llama-tiny", "float32").path / "template.json"
    replace(TemplateDescription.load(path), chat_template=source).save(path)


def shown(cache: Path) -> list[str]:
    arguments = ["show", "dummy://llama-tiny", "--dtype", "float32", "--cache-dir", str(cache)]
    return CliRunner().invoke(model, arguments).stdout.splitlines()


async def test_a_limited_model_is_in_log_and_lease(
    redis_server: RedisServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with_template(tmp_path, SHOWS_NO_TOOLS)
    with caplog.at_level(logging.WARNING, "roost_worker"):
        async with scripted_world(worker_config(redis_server.url, tmp_path)) as world:
            assert world.server.shell.lease().limits == (ModelLimit.TOOLS_IN_SYSTEM_TEXT.value,)
    warnings = [record.getMessage() for record in caplog.records if "is limited" in record.getMessage()]
    assert warnings == [
        f"the model dummy is limited: tools-in-system-text: {ModelLimit.TOOLS_IN_SYSTEM_TEXT.meaning} "
        "(in the words of the format chatml)"
    ]


async def test_a_model_without_limits_has_none_in_its_lease(redis_server: RedisServer, tmp_path: Path) -> None:
    async with scripted_world(worker_config(redis_server.url, tmp_path)) as world:
        assert world.server.shell.lease().limits == ()


def test_limits_are_shown(tmp_path: Path) -> None:
    with_template(tmp_path, SHOWS_NO_TOOLS)
    (limit,) = [line for line in shown(tmp_path) if line.startswith("limit ")]
    assert limit.startswith(f"limit        tools-in-system-text: {ModelLimit.TOOLS_IN_SYSTEM_TEXT.meaning}")


def test_a_model_without_limits_is_shown_so(tmp_path: Path) -> None:
    ModelStore(tmp_path).prepare("dummy://llama-tiny", "float32")
    assert "limits       none" in shown(tmp_path)


def test_a_model_that_is_refused_for_its_template_is_shown_with_the_reason(tmp_path: Path) -> None:
    with_template(tmp_path, "{{ messages | length }}")
    (refused,) = [line for line in shown(tmp_path) if line.startswith("refused ")]
    assert "this model's turns cannot be rendered" in refused
