"""A tool loop over Responses with the package `openai`.

`responses_openai.py stream|whole history|previous|conversation`
"""

import json
import sys

import openai
from files import BASE_URL, MODEL, PARAMETERS, SYSTEM, TASK, read

TOOL = {"type": "function", "name": "read", "description": "Read a file", "parameters": PARAMETERS, "strict": False}
streamed, kind = sys.argv[1] == "stream", sys.argv[2]


def reply(client, items, name):
    request = {"model": MODEL, "instructions": SYSTEM, "input": items, "tools": [TOOL], **name}
    if not streamed:
        return client.responses.create(**request)
    with client.responses.stream(**request) as events:
        return events.get_final_response()


client = openai.OpenAI(base_url=f"{BASE_URL}/v1", api_key="unused")
items, name = [{"role": "user", "content": TASK}], {}
if kind == "conversation":
    name = {"conversation": client.conversations.create().id}
while True:
    response = reply(client, items, name)
    calls = [item for item in response.output if item.type == "function_call"]
    if not calls:
        break
    results = [
        {"type": "function_call_output", "call_id": call.call_id, "output": read(**json.loads(call.arguments))}
        for call in calls
    ]
    if kind == "previous":
        name = {"previous_response_id": response.id}
    if name:
        items = results
    else:
        items += [item.model_dump(exclude_none=True) for item in response.output] + results
assert client.responses.retrieve(response.id).output_text == response.output_text
if kind == "conversation":
    assert response.conversation.id == name["conversation"]
    items = list(client.conversations.items.list(name["conversation"], order="asc"))
    assert [item.type for item in items if item.type != "message"] == [
        *("function_call", "function_call_output"),
        *("function_call", "function_call", "function_call_output", "function_call_output"),
    ]
    assert (items[0].content[0].text, items[-1].id) == (TASK, response.output[-1].id)
print(response.output_text)
