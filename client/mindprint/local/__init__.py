"""Run Mindprint on this machine: child processes, a cluster of server and trainers, and progress on a console."""
