"""What keeps a server running: supervised background tasks, readiness, full disks, the end of streams."""
