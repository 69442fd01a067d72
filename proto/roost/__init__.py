"""Roost's SDK: sessions of agents, served by gateways that remember them.

    from roost import Client

    async with await Client.connect("127.0.0.1:7433") as client:
        session = await client.open(system="You are terse.")
        result = await session.run("Say hello.", max_tokens=40)
        print(result.text)

`roost.sync` has the same without asyncio, `roost.testing` a gateway for tests, `roost.errors` all errors.
"""

from roost._client import Client
from roost._messages import (
    Format,
    JsonSchema,
    Message,
    MessageRole,
    Sampling,
    Tool,
    ToolCall,
    ToolChoice,
    ToolChoiceMode,
    tool_result,
    user,
)
from roost._records import (
    Committed,
    Delta,
    Event,
    FinishReason,
    Head,
    Hold,
    LoggedStep,
    Queued,
    Restarted,
    SessionInfo,
    SessionState,
    Started,
    StepResult,
    Tier,
    TokenLogprobs,
    Usage,
)
from roost._retry import RetryConfig
from roost._session import Session
from roost._step import Step
from roost._transport import TLSConfig
from roost.errors import RoostError

__version__ = "0.1.0"

__all__ = [
    "Client",
    "Committed",
    "Delta",
    "Event",
    "FinishReason",
    "Format",
    "Head",
    "Hold",
    "JsonSchema",
    "LoggedStep",
    "Message",
    "MessageRole",
    "Queued",
    "Restarted",
    "RetryConfig",
    "RoostError",
    "Sampling",
    "Session",
    "SessionInfo",
    "SessionState",
    "Started",
    "Step",
    "StepResult",
    "TLSConfig",
    "Tier",
    "TokenLogprobs",
    "Tool",
    "ToolCall",
    "ToolChoice",
    "ToolChoiceMode",
    "Usage",
    "__version__",
    "tool_result",
    "user",
]
