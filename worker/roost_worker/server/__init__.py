"""The worker's shell: gRPC over renderer and engine client. It imports no torch; the engine has its own process."""
