"""Roost's SDK: sessions of agents, served by gateways that remember them.

    from roost import Client

    async with await Client.connect("127.0.0.1:7433") as client:
        session = await client.open(system="You are terse.")
        result = await session.run("Say hello.", max_tokens=40)
        print(result.text)

`roost.sync` is the same without asyncio, `roost.testing` has a gateway for tests, and `roost.errors` all errors.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from roost._client import Client
    from roost._messages import tool_result, user
    from roost._result import StepResult
    from roost._retry import RetryConfig
    from roost._session import Session
    from roost._step import Step
    from roost._transport import TLSConfig
    from roost.contract.budgets import BudgetScope, BudgetStatus, BudgetUnit
    from roost.contract.events import (
        ArgumentsPart,
        CallPart,
        Committed,
        Delta,
        Event,
        FinishReason,
        Migrated,
        Part,
        Queued,
        ReasoningPart,
        Restarted,
        Started,
        TextPart,
        TokenLogprobs,
        Usage,
    )
    from roost.contract.heads import Head
    from roost.contract.messages import (
        Format,
        JsonSchema,
        Message,
        MessageRole,
        Sampling,
        Tool,
        ToolCall,
        ToolChoice,
        ToolChoiceMode,
    )
    from roost.contract.repetition import Repetition
    from roost.contract.sessions import ForkPoint, Hold, LoggedStep, SessionInfo, SessionState, SessionTool, Tier
    from roost.contract.steps import Deltas
    from roost.contract.why import KvEviction, Place, RebuildCause, Wait, WaitReason, Why
    from roost.errors import RoostError

__version__ = "0.1.0"

__all__ = [
    "ArgumentsPart",
    "BudgetScope",
    "BudgetStatus",
    "BudgetUnit",
    "CallPart",
    "Client",
    "Committed",
    "Delta",
    "Deltas",
    "Event",
    "FinishReason",
    "ForkPoint",
    "Format",
    "Head",
    "Hold",
    "JsonSchema",
    "KvEviction",
    "LoggedStep",
    "Message",
    "MessageRole",
    "Migrated",
    "Part",
    "Place",
    "Queued",
    "ReasoningPart",
    "RebuildCause",
    "Repetition",
    "Restarted",
    "RetryConfig",
    "RoostError",
    "Sampling",
    "Session",
    "SessionInfo",
    "SessionState",
    "SessionTool",
    "Started",
    "Step",
    "StepResult",
    "TLSConfig",
    "TextPart",
    "Tier",
    "TokenLogprobs",
    "Tool",
    "ToolCall",
    "ToolChoice",
    "ToolChoiceMode",
    "Usage",
    "Wait",
    "WaitReason",
    "Why",
    "__version__",
    "tool_result",
    "user",
]

# Engine processes import `roost.contract` and must not pay for gRPC, nor have it installed: names load on first use.
_HOMES = (
    "roost.contract.budgets",
    "roost.contract.events",
    "roost.contract.heads",
    "roost.contract.messages",
    "roost.contract.repetition",
    "roost.contract.sessions",
    "roost.contract.steps",
    "roost.contract.why",
    "roost.errors",
    "roost._client",
    "roost._messages",
    "roost._result",
    "roost._retry",
    "roost._session",
    "roost._step",
    "roost._transport",
)
"""Modules of the public names; first those that import no gRPC."""


def __getattr__(name: str) -> Any:
    for home in _HOMES if name in __all__ else ():
        module = importlib.import_module(home)
        if hasattr(module, name):
            value = globals()[name] = getattr(module, name)
            return value
    raise AttributeError(f"module `roost` has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
