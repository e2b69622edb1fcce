"""Training data: leases, the samples they carry, and replay."""
