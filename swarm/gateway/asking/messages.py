"""The messages of a chat: text, said by somebody whom the model's template knows."""

from __future__ import annotations

from collections.abc import Mapping

from swarm.gateway.asking.fields import Fields
from swarm.gateway.asking.parameters import Message
from swarm.gateway.faults import Refused

MAX_MESSAGES = 4096
MAX_NAME = 64

ROLES: Mapping[str, str] = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant"}
"""What the API calls them, and what templates do."""

_FOR_TOOLS = ("tool_calls", "tool_call_id", "function_call")


def read_messages(fields: Fields) -> tuple[Message, ...]:
    """Read the field `messages`.

    Raises:
        Refused: It is missing, or a message is not plain text of a known role.
    """
    value = fields.take("messages")
    if value is None:
        raise Refused("messages is missing: give a list of them", param="messages", fault="missing_parameter")
    if not isinstance(value, list) or not 0 < len(value) <= MAX_MESSAGES:
        raise fields.wrong("messages", value, f"a list of 1 to {MAX_MESSAGES} messages")
    return tuple(
        _message(Fields(_object(fields, each, index), f"messages[{index}]")) for index, each in enumerate(value)
    )


def _object(fields: Fields, value: object, index: int) -> dict[str, object]:
    if not isinstance(value, dict):
        raise fields.wrong(f"messages[{index}]", value, "an object with role and content")
    return value


def _message(fields: Fields) -> Message:
    role = fields.text("role", MAX_NAME)
    if role is None or role not in ROLES:
        raise fields.wrong("role", role, f"one of {', '.join(ROLES)}")
    for name in _FOR_TOOLS:
        fields.only(name, ([],), "tools are not called here")
    for name in ("audio", "refusal"):
        fields.only(name, (), "messages are text")
    message = {"role": ROLES[role], "content": _content(fields)}
    if (speaker := fields.text("name", MAX_NAME)) is not None:
        message["name"] = speaker
    fields.end()
    return message


def _content(fields: Fields) -> str:
    value = fields.take("content")
    if isinstance(value, list) and value:
        return "".join(_part(fields, part, index) for index, part in enumerate(value))
    return fields.as_text("content", value)


def _part(fields: Fields, value: object, index: int) -> str:
    name = f"content[{index}]"
    if not isinstance(value, dict):
        raise fields.wrong(name, value, "an object with type and text")
    part = Fields(value, fields.path(name))
    part.only("type", ("text",), "messages are text")
    text = part.text("text")
    part.end()
    if text is None:
        raise part.wrong("text", None, "a string")
    return text
