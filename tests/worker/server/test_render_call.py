"""The Render call of a running worker."""

from typing import Any

import grpc
import pytest

from roost.contract.loghash import unpack_ids
from roost.v1 import session_service_pb2 as api
from roost.v1 import worker_service_pb2 as pb
from worker_harness import SECRET, World, reason


def said(text: str, answer: str) -> pb.StepText:
    messages = [api.Message(role=api.MESSAGE_ROLE_USER, content=text)]
    output = api.Message(role=api.MESSAGE_ROLE_ASSISTANT, content=answer)
    return pb.StepText(messages=messages, output=output, text=answer)


async def rendered(
    world: World, *steps: pb.StepText, secret: str = SECRET, **fields: Any
) -> list[tuple[list[int], list[int]]]:
    request = pb.RenderRequest(
        **{"model_revision": world.server.shell.identity.revision, "system": "Be kind.", "steps": steps, **fields}
    )
    response = await world.call("Render", request, secret)
    return [(list(unpack_ids(s.prompt_token_ids)), list(unpack_ids(s.output_token_ids))) for s in response.steps]


async def refusal(world: World, *steps: pb.StepText, **fields: Any) -> tuple[grpc.StatusCode, str]:
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await rendered(world, *steps, **fields)
    return raised.value.code(), reason(raised.value)


async def test_a_log_is_rendered_as_its_steps_once_were(world: World) -> None:
    texts = ("one", "x" * 9)
    steps = await rendered(world, said("one", "1"), said("x" * 9, "2" * 9))
    log: list[int] = []
    for (prompt, output), text in zip(steps, texts, strict=True):
        message = api.Message(role=api.MESSAGE_ROLE_USER, content=text)
        assert prompt == list(world.renderer.render_step(messages=[message], log_ids=log, system="Be kind."))
        log += prompt + output
    assert [output for _, output in steps] == [[world.token(49)], [world.token(50)] * 9]


async def test_a_log_in_pieces_is_the_same_log(world: World) -> None:
    steps = [said("one", "1"), said("two", ""), said("three", "3")]
    whole = await rendered(world, *steps)
    length = sum(len(prompt) + len(output) for prompt, output in whole[:2])
    first = await rendered(world, *steps[:2])
    assert first + await rendered(world, steps[2], steps_before=2, tokens_before=length) == whole
    assert (await refusal(world, steps[2], steps_before=2, tokens_before=250))[1] == "STEP_TOO_LONG"


async def test_thinking_is_left_out_after_a_turn_that_ended_itself(world: World) -> None:
    thought = said("two", "2")
    thought.text, thought.without_thinking = "<think>Hm.</think>2", True
    end = world.renderer.eos_token_ids[0]
    ((prompt, output),) = await rendered(world, thought, steps_before=1, tokens_before=9, last_token_id=end)
    assert prompt == list(world.renderer.render_step(messages=thought.messages, log_ids=[end]))
    assert output == [world.token(50)]


async def test_a_date_that_is_none_is_refused(world: World) -> None:
    code, _ = await refusal(world, said("one", "1"), date="today")
    assert code == grpc.StatusCode.INVALID_ARGUMENT


async def test_a_log_that_does_not_fit_is_refused(world: World) -> None:
    many = [said("y" * 20, "z" * 20)] * 10
    assert await refusal(world, *many) == (grpc.StatusCode.INVALID_ARGUMENT, "STEP_TOO_LONG")
    assert (await refusal(world, said("y" * 8000, "z")))[1] == "STEP_TOO_LONG"


async def test_what_cannot_be_rendered_is_refused(world: World) -> None:
    refused = await refusal(world, said("a", "b"), pb.StepText())
    assert refused == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_REQUEST")


async def test_another_revision_a_draining_worker_and_a_stranger_are_refused(world: World) -> None:
    mismatch = await refusal(world, model_revision="another")
    assert mismatch == (grpc.StatusCode.FAILED_PRECONDITION, "MODEL_REVISION_MISMATCH")
    assert (await refusal(world, secret="wrong"))[1] == "INVALID_API_KEY"
    await world.server.drain()
    assert (await refusal(world))[1] == "WORKER_DRAINING"
