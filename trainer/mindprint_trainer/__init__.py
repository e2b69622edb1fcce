"""The trainer process: leases an adapter's accepted traces, trains LoRA weights on them, and uploads the version.

It reaches the server over HTTP only. `process.run(settings)` is the process.
"""
