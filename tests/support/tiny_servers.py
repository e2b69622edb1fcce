"""Settings of real servers on the tiny model, as environment variables without their prefix."""

from __future__ import annotations

import json

from tiny import TARGETS

SERVER = {
    "DTYPE": "float32",
    "KV_CACHE_GIB": "0.25",
    "MAX_NUM_SEQS": "8",
    "MAX_THINKING_TOKENS": "12",
    "MIN_THINKING_WORDS": "0",
    "PREFILTER_BY_PRIOR": "false",
    "MIN_ANSWER_FREQUENCY": "0",
    "MIN_GAIN": "null",
    "MIN_ANCHOR": "null",
    "PROFILE_TOKENS": "16",
    "TARGET_MODULES": json.dumps(TARGETS),
}
"""What random weights need: they think as they like, and the engine has little memory."""
TRAINED = SERVER | {
    "BATCH_MAX_IN_FLIGHT": "4",
    "GATE": "false",  # random weights do not think
}
"""And of servers whose versions go live without a gate."""
