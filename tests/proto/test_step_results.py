"""What is left of a step when it has ended, and of one whose client was closed."""

import asyncio

import grpc
import pytest

from roost import Client, Delta, errors
from roost.contract.reasons import Reason
from roost.v1 import session_service_pb2 as pb
from scripted_gateway import SESSION, Hang, Refuse, ScriptedGateway, committed, delta, restarted, session_on


async def test_a_result_holds_what_was_iterated_before() -> None:
    script = [delta("wrong"), restarted(2), delta("ab", epoch=2), delta("c", 2, epoch=2), committed("abc")]
    async with ScriptedGateway(script) as gateway, session_on(gateway) as session:
        step = session.step("hi")
        async for event in step:
            if isinstance(event, Delta) and event.text == "ab":
                break
        result = await step.result()
        assert (result.text, bytes(result.token_ids)) == ("abc", b"abc")
        assert await step.result() == result
    assert len(gateway.steps) == 1


async def test_the_result_of_a_step_that_failed_or_was_left_is_an_error() -> None:
    refusal = Refuse(grpc.StatusCode.ABORTED, Reason.ATTEMPT_FENCED)
    async with ScriptedGateway([refusal], [delta("a"), Hang()]) as gateway, session_on(gateway) as session:
        failed, left = session.step("hi"), session.step("hi")
        for _ in range(2):
            with pytest.raises(errors.AttemptFencedError):
                await failed.result()
        await anext(left)
        await left.aclose()
        with pytest.raises(errors.StepCancelledError, match="left before its end"):
            await left.result()


async def test_a_result_has_the_logprobs_of_its_tokens() -> None:
    piece = delta("ab")
    piece.delta.logprobs.extend([pb.TokenLogprobs(logprob=-1.0), pb.TokenLogprobs(logprob=-2.0, top_ids=[5])])
    async with ScriptedGateway([piece, committed("ab")]) as gateway, session_on(gateway) as session:
        result = await session.run("hi", logprobs=1)
    assert [(entry.logprob, entry.top_ids) for entry in result.logprobs] == [(-1.0, ()), (-2.0, (5,))]


async def test_closing_the_client_ends_its_steps_with_an_error() -> None:
    async with ScriptedGateway([delta("a"), Hang()]) as gateway:
        client = await Client.connect(gateway.target)
        task = asyncio.create_task(client.session(SESSION).run("hi"))
        await gateway.hanging.wait()
        await client.close()
        with pytest.raises(errors.StepCancelledError, match="client was closed"):
            await task
        await gateway.cancelled.wait()


async def test_a_step_cancelled_while_its_client_closes_is_cancelled() -> None:
    async with ScriptedGateway([delta("a"), Hang()]) as gateway:
        client = await Client.connect(gateway.target)
        task = asyncio.create_task(client.session(SESSION).run("hi"))
        await gateway.hanging.wait()
        task.cancel()
        await client.close()
        with pytest.raises(asyncio.CancelledError):
            await task
