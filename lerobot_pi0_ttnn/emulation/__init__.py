"""The emulated board: the real ttnn on a mocked cluster, with values from ttnn's golden functions.

ttnn opens a mocked device, so that everything it does on the host is the real thing: the validation of each op, program
configs, circular buffers against L1, buffers against DRAM. No kernel runs. Values are computed in torch instead, by the
op's *golden function*, on shadow tensors that are rounded to the storage dtype after every op.

What it proves: that each op is legal on that board, that memory suffices, what the graph computes, and what its storage
dtypes cost. What it does not: the numerics of the kernels (accumulation order, approximate exp and gelu), tile padding
(values outside the logical shape do not exist here), and speed.
"""
