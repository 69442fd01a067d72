"""A tool loop over Chat Completions with the package `openai`: `chat_openai.py stream|whole`. Prints the answer."""

import json
import sys

import openai
from files import BASE_URL, MODEL, PARAMETERS, SYSTEM, TASK, read

TOOL = {"type": "function", "function": {"name": "read", "description": "Read a file", "parameters": PARAMETERS}}


def reply(client, messages, *, streamed):
    if not streamed:
        return client.chat.completions.create(model=MODEL, messages=messages, tools=[TOOL]).choices[0].message
    with client.chat.completions.stream(model=MODEL, messages=messages, tools=[TOOL]) as events:
        return events.get_final_completion().choices[0].message


client = openai.OpenAI(base_url=f"{BASE_URL}/v1", api_key="unused")
messages = [{"role": "system", "content": SYSTEM}, {"role": "user", "content": TASK}]
while True:
    message = reply(client, messages, streamed=sys.argv[1] == "stream")
    calls = message.tool_calls or []
    messages.append({"role": "assistant", "content": message.content})
    if not calls:
        break
    messages[-1]["tool_calls"] = [call.model_dump(include={"id", "type", "function"}) for call in calls]
    for call in calls:
        content = read(**json.loads(call.function.arguments))
        messages.append({"role": "tool", "tool_call_id": call.id, "content": content})
print(message.content)
