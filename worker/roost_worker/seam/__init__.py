"""Between the shell (asyncio) and the engine (a thread, or processes of its own): how messages and outputs travel."""
