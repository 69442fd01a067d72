"""The engine's kernels for CPUs, in C++, compiled once per machine. Without a compiler torch does the work."""
