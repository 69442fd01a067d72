"""An agent of `pydantic-ai`: `agent_pydantic_ai.py chat|responses|messages`. Prints its answer."""

import sys

import files
from pydantic_ai import Agent
from pydantic_ai.models.anthropic import AnthropicModel
from pydantic_ai.models.openai import OpenAIChatModel, OpenAIResponsesModel
from pydantic_ai.providers.anthropic import AnthropicProvider
from pydantic_ai.providers.openai import OpenAIProvider

if sys.argv[1] == "messages":
    model = AnthropicModel(files.MODEL, provider=AnthropicProvider(base_url=files.BASE_URL, api_key="unused"))
else:
    kind = OpenAIChatModel if sys.argv[1] == "chat" else OpenAIResponsesModel
    model = kind(files.MODEL, provider=OpenAIProvider(base_url=f"{files.BASE_URL}/v1", api_key="unused"))
agent = Agent(model, instructions=files.SYSTEM, tools=[files.read])
print(agent.run_sync(files.TASK).output)
