"""Programs of our own kernels, a folder each."""
