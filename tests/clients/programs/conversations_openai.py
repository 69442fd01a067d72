"""What the package `openai` does with conversations, but for responses in them: `client.conversations`."""

import openai
from files import BASE_URL

client = openai.OpenAI(base_url=f"{BASE_URL}/v1", api_key="unused")
conversations, items = client.conversations, client.conversations.items


def texts(conversation, **query):
    return [item.content[0].text for item in items.list(conversation.id, **query)]


def user(text):
    return {"type": "message", "role": "user", "content": text}


created = conversations.create(items=[user("one")], metadata={"topic": "roost"})
assert (created.object, created.metadata) == ("conversation", {"topic": "roost"})
assert conversations.retrieve(created.id) == created
assert conversations.update(created.id, metadata={"topic": "hen"}).metadata == {"topic": "hen"}

added = items.create(created.id, items=[user(text) for text in ("two", "three", "four")])
assert [item.content[0].text for item in added.data] == ["two", "three", "four"]
assert texts(created) == ["four", "three", "two", "one"]
assert texts(created, limit=1, order="asc") == ["one", "two", "three", "four"], "the package asks for all pages"
assert items.retrieve(added.data[0].id, conversation_id=created.id) == added.data[0]
assert items.delete(added.data[0].id, conversation_id=created.id).id == created.id
assert texts(created) == ["four", "three", "one"]

assert conversations.delete(created.id).deleted
try:
    conversations.retrieve(created.id)
    code = None
except openai.NotFoundError as error:
    code = error.code
assert code == "session_not_found"
