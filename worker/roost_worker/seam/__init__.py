"""Carries messages and outputs between the shell (asyncio) and the engine (a thread, or processes of its own)."""
