"""The training loss: its labels, its weights, its gradient, and the log of its values."""
