"""Metrics of answers and thinking, and the statistics over users."""
