"""The engine's pure core: blocks, prefixes, parked sequences, scheduling. No torch, no Ray, no gRPC."""
