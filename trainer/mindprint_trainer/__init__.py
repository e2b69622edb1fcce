"""The trainer process: leases one adapter's accepted traces, trains a LoRA adapter on them, uploads the version.

It meets the server over HTTP only. `main.run(settings)` is the process.
"""
