"""What holds for all tests."""

from __future__ import annotations

import hypothesis

# No test is decided by the clock.
hypothesis.settings.register_profile("mindprint", hypothesis.settings(), deadline=None)
hypothesis.settings.load_profile("mindprint")
