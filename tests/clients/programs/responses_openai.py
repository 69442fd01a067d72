"""A tool loop over Responses with the package `openai`: `responses_openai.py stream|whole history|previous`."""

import json
import sys

import openai
from files import BASE_URL, MODEL, PARAMETERS, SYSTEM, TASK, read

TOOL = {"type": "function", "name": "read", "description": "Read a file", "parameters": PARAMETERS, "strict": False}
streamed, by_name = sys.argv[1] == "stream", sys.argv[2] == "previous"


def reply(client, items, previous):
    request = {"model": MODEL, "instructions": SYSTEM, "input": items, "tools": [TOOL]}
    if previous:
        request["previous_response_id"] = previous
    if not streamed:
        return client.responses.create(**request)
    with client.responses.stream(**request) as events:
        return events.get_final_response()


client = openai.OpenAI(base_url=f"{BASE_URL}/v1", api_key="unused")
items, previous = [{"role": "user", "content": TASK}], None
while True:
    response = reply(client, items, previous)
    calls = [item for item in response.output if item.type == "function_call"]
    if not calls:
        break
    results = [
        {"type": "function_call_output", "call_id": call.call_id, "output": read(**json.loads(call.arguments))}
        for call in calls
    ]
    if by_name:
        items, previous = results, response.id
    else:
        items += [item.model_dump(exclude_none=True) for item in response.output] + results
assert client.responses.retrieve(response.id).output_text == response.output_text
print(response.output_text)
