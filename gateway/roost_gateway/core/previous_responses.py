"""What a request continues that names a response: its session's system text, and its history."""

from dataclasses import replace

from roost.contract.messages import Message
from roost.contract.refused import Refused, invalid
from roost.contract.steps import StepName
from roost.store.detached import DetachedSteps
from roost_gateway.core.caller import Caller
from roost_gateway.core.gateway import Gateway
from roost_gateway.core.logged_steps import no_such_response, sessions_of_responses
from roost_gateway.recognition.conversation import Conversation

_PAGE_STEPS = 100


class PreviousResponses:
    """Reads responses from the logs of their sessions. Every method raises Refused or StoreAwayError."""

    def __init__(self, gateway: Gateway, detached: DetachedSteps) -> None:
        self._gateway = gateway
        self._detached = detached

    async def with_system(self, asked: Conversation, caller: Caller) -> Conversation:
        """The conversation with all of the system text that its previous response was given, unless it begins in
        another way now. Raises Refused: SESSION_NOT_FOUND when there is no such response."""
        if asked.previous is None:
            return asked
        with sessions_of_responses():
            system = await self._gateway.system_text(asked.previous.session_id, caller)
        is_kept = not asked.system or f"{system}\n\n".startswith(f"{asked.system}\n\n")
        return replace(asked, system=system) if is_kept else asked

    async def history(self, previous: StepName, caller: Caller) -> list[Message]:
        """The messages up to the end of a response. Raises Refused: SESSION_NOT_FOUND when there is no such response,
        INVALID_REQUEST when it is not committed."""
        messages, token = list[Message](), ""
        while True:
            with sessions_of_responses():
                page = await self._gateway.list_steps(
                    previous.session_id, caller, page_size=_PAGE_STEPS, page_token=token
                )
            for step in page.steps:
                messages += [*step.messages, step.output]
                if step.step_id == previous.step_id:
                    return messages
            token = page.next_page_token
            if not token:
                raise await self._not_committed(previous, caller)

    async def _not_committed(self, previous: StepName, caller: Caller) -> Refused:
        progress = await self._detached.read(previous, caller.tenant)
        if progress is None:
            return no_such_response()
        why = f"is {progress.state.value}; a response can be continued once it is completed"
        return invalid([("previous_response_id", why)])
