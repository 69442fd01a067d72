"""A tool loop over Messages with the package `anthropic`: `messages_anthropic.py stream|whole`. Prints the answer."""

import sys

import anthropic
from files import BASE_URL, MODEL, PARAMETERS, SYSTEM, TASK, read

TOOL = {"name": "read", "description": "Read a file", "input_schema": PARAMETERS}


def reply(client, messages, *, streamed):
    request = {"model": MODEL, "max_tokens": 1000, "system": SYSTEM, "messages": messages, "tools": [TOOL]}
    if not streamed:
        return client.messages.create(**request)
    with client.messages.stream(**request) as events:
        return events.get_final_message()


client = anthropic.Anthropic(base_url=BASE_URL, api_key="unused")
messages = [{"role": "user", "content": TASK}]
assert client.messages.count_tokens(model=MODEL, system=SYSTEM, messages=messages, tools=[TOOL]).input_tokens > 100
while True:
    message = reply(client, messages, streamed=sys.argv[1] == "stream")
    messages.append({"role": "assistant", "content": [block.model_dump() for block in message.content]})
    if message.stop_reason != "tool_use":
        break
    results = [
        {"type": "tool_result", "tool_use_id": block.id, "content": read(**block.input)}
        for block in message.content
        if block.type == "tool_use"
    ]
    messages.append({"role": "user", "content": results})
print("".join(block.text for block in message.content if block.type == "text"))
