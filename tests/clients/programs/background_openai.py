"""A tool loop over background responses with the package `openai`: `background_openai.py poll|resume`."""

import json
import sys
import time

import openai
from files import BASE_URL, MODEL, PARAMETERS, SYSTEM, TASK, read

TOOL = {"type": "function", "name": "read", "description": "Read a file", "parameters": PARAMETERS, "strict": False}
ENDS = {"response.completed", "response.incomplete", "response.failed"}


def polled(client, request):
    response = client.responses.create(**request)
    while response.status in ("queued", "in_progress"):
        time.sleep(0.05)
        response = client.responses.retrieve(response.id)
    return response


def resumed(client, request):
    """Leaves the stream again and again, each time after a few events."""
    numbers, stream = [], client.responses.create(**request, stream=True)
    while True:
        for place, event in enumerate(stream):
            numbers.append(event.sequence_number)
            if event.type == "response.created":
                name = event.response.id
            if event.type in ENDS:
                assert numbers == list(range(len(numbers)))
                return event.response
            if place == 2:
                stream.close()
                break
        stream = client.responses.retrieve(name, stream=True, starting_after=numbers[-1])


client = openai.OpenAI(base_url=f"{BASE_URL}/v1", api_key="unused")
reply = {"poll": polled, "resume": resumed}[sys.argv[1]]
request = {"model": MODEL, "instructions": SYSTEM, "input": TASK, "tools": [TOOL], "background": True}
while True:
    response = reply(client, request)
    assert (response.status, response.background) == ("completed", True)
    calls = [item for item in response.output if item.type == "function_call"]
    if not calls:
        break
    request["previous_response_id"] = response.id
    request["input"] = [
        {"type": "function_call_output", "call_id": call.call_id, "output": read(**json.loads(call.arguments))}
        for call in calls
    ]
assert client.responses.cancel(response.id).output_text == response.output_text, "it has ended, and stays so"
print(response.output_text)
