"""What is dispatched and how long it should take: graph capture, cost model, predictions. For `cli` only; no run needs it."""
