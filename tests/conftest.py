"""What holds for all tests."""

from __future__ import annotations

import hypothesis

hypothesis.settings.register_profile(
    "mindprint", hypothesis.settings(), deadline=None
)  # no test is decided by the clock
hypothesis.settings.load_profile("mindprint")
