"""Mindprint's processes on this machine, as child processes with a console."""
