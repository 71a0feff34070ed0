"""The calculator for Transformers: parameters, FLOPs, activation memory, KV cache and O(N^2) attention, exactly."""

__version__ = "0.1.0"
