"""The typed `AgentPool` spec and what is derived from it. Pure, except that `loader` reads a file."""
