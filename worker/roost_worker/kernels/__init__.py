"""The engine's kernels for CPUs, in C++, compiled once per machine. Where they cannot be, torch's operators do the work."""
