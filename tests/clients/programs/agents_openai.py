"""An agent of `openai-agents`: `agents_openai.py chat|responses|previous|conversation|session`. Prints its answer."""

import asyncio
import sys

import files
from agents import (
    Agent,
    OpenAIChatCompletionsModel,
    OpenAIConversationsSession,
    OpenAIResponsesModel,
    Runner,
    function_tool,
    set_tracing_disabled,
)
from openai import AsyncOpenAI


async def memory(client):
    """Where the run's history is kept, other than in the process."""
    match sys.argv[1]:
        case "previous":
            return {"auto_previous_response_id": True}
        case "conversation":
            return {"conversation_id": (await client.conversations.create()).id}
        case "session":
            return {"session": OpenAIConversationsSession(openai_client=client)}
    return {}


async def main():
    set_tracing_disabled(True)
    client = AsyncOpenAI(base_url=f"{files.BASE_URL}/v1", api_key="unused")
    kind = OpenAIChatCompletionsModel if sys.argv[1] == "chat" else OpenAIResponsesModel
    model = kind(model=files.MODEL, openai_client=client)
    agent = Agent(name="reader", instructions=files.SYSTEM, model=model, tools=[function_tool(files.read)])
    result = await Runner.run(agent, files.TASK, **await memory(client))
    print(result.final_output)


asyncio.run(main())
