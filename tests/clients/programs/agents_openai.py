"""An agent of `openai-agents`: `agents_openai.py chat|responses|previous`. Prints its answer."""

import asyncio
import sys

import files
from agents import Agent, OpenAIChatCompletionsModel, OpenAIResponsesModel, Runner, function_tool, set_tracing_disabled
from openai import AsyncOpenAI


async def main():
    set_tracing_disabled(True)
    client = AsyncOpenAI(base_url=f"{files.BASE_URL}/v1", api_key="unused")
    kind = OpenAIChatCompletionsModel if sys.argv[1] == "chat" else OpenAIResponsesModel
    model = kind(model=files.MODEL, openai_client=client)
    agent = Agent(name="reader", instructions=files.SYSTEM, model=model, tools=[function_tool(files.read)])
    by_name = {"auto_previous_response_id": True} if sys.argv[1] == "previous" else {}
    result = await Runner.run(agent, files.TASK, **by_name)
    print(result.final_output)


asyncio.run(main())
