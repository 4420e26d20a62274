"""What the plans of all programs of our own may take of a core. No ttnn here."""

MEMORY_SHARE = 0.9
"""Of a core's L1, for circular buffers and the tensors beside them; the rest is for what a program needs besides."""
