"""What a worker's engine has cached of sessions, as the shell knows it from the engine's reports. Pure."""

from roost.store.residency import warm_field
from roost_worker.engine.messages import Outputs


class SessionResidency:
    """Cached tokens of each session: on the device, and behind those in host memory."""

    def __init__(self) -> None:
        self.on_device: dict[str, int] = {}
        self.in_host_memory: dict[str, int] = {}

    def __contains__(self, session: str) -> bool:
        return session in self.on_device or session in self.in_host_memory

    def __bool__(self) -> bool:
        return bool(self.on_device or self.in_host_memory)

    def tokens(self, session: str) -> int:
        """Return the tokens of a session that are cached anywhere."""
        return self.on_device.get(session, 0) + self.in_host_memory.get(session, 0)

    def published(self) -> dict[str, int]:
        """Return the fields of the hash that `roost.store.keys.PoolKeys.residency` names."""
        return self.on_device | {warm_field(session): tokens for session, tokens in self.in_host_memory.items()}

    def take_losses(self, outputs: Outputs) -> list[str]:
        """Take what left the device and what is in host memory now.

        Return the sessions of which nothing is cached then, nor with what `outputs` parks.
        """
        for session, _ in outputs.dropped:
            self.on_device.pop(session, None)
        for session, tokens in outputs.warm:
            if tokens:
                self.in_host_memory[session] = tokens
            else:
                self.in_host_memory.pop(session, None)
        parked = {session for session, _ in outputs.parked}
        lost = dict.fromkeys(session for session, _ in (*outputs.dropped, *outputs.warm))
        return [session for session in lost if session not in self and session not in parked]

    def take_parked(self, outputs: Outputs) -> None:
        """Take what the device has of sessions that were parked."""
        self.on_device.update(outputs.parked)

    def clear(self) -> None:
        """Forget all, because the engine is gone."""
        self.on_device.clear()
        self.in_host_memory.clear()
