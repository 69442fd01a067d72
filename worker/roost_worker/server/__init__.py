"""The worker's shell: gRPC on top of renderer and engine client. It does not import torch: the engine has a process
of its own."""
