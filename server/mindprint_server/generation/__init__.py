"""Trace generation: batches, their schedule, candidates, and the rows that come of them."""
