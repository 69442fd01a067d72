"""The typed `AgentPool` spec and what is derived from it. Pure, apart from reading one file."""
