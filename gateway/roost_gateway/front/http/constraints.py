"""What constrains an output: a choice of tools, or a schema. Pure."""

from collections.abc import Mapping
from typing import Any

from roost.contract.messages import Format, JsonSchema, ToolChoice, ToolChoiceMode
from roost.contract.refused import invalid
from roost_gateway.front.http.parameters import json_text

_NO_CALLS = ToolChoice(ToolChoiceMode.NONE)


def format_of(
    choice: ToolChoice | None, schema: Mapping[str, Any] | None, *, has_tools: bool, field: str
) -> Format | None:
    """The constraint of a step, of an API's tool choice and of the schema in its parameter `field`.

    Raises Refused: INVALID_REQUEST for a schema beside tools that may be called, since it leaves no room for a call.
    """
    if schema is None:
        return choice if has_tools or choice != _NO_CALLS else None
    if has_tools and choice != _NO_CALLS:
        why = 'goes with no tools, or with tool_choice "none": a reply that satisfies a schema cannot be a call'
        raise invalid([(field, why)])
    return JsonSchema(json_text(schema, field))
