"""What this package knows of ttnn itself, below all that uses it: the wrapper of its calls, and what counts them."""
