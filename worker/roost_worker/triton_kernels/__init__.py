"""Triton kernels of the engine: for GPUs, and for CPUs in Triton's interpreter. They need triton at import."""
