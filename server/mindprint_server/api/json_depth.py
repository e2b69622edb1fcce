"""Measures how deep a JSON text nests, before a parser sees it."""

from __future__ import annotations

import re
from itertools import accumulate

# Possessive quantifiers, and an end of the text as an end of a string, keep this linear in the text.
_STRING = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+(?:"|\\?\Z)', re.DOTALL)
_NOT_A_BRACKET = bytes(set(range(256)) - set(b"[]{}"))
_STEP = [0] * 256
for _bracket in b"[{":
    _STEP[_bracket] = 1
for _bracket in b"]}":
    _STEP[_bracket] = -1


def json_depth(text: bytes) -> int:
    """Return the most lists and objects that are open at one place. Brackets in strings do not count."""
    brackets = _STRING.sub(b"", text).translate(None, _NOT_A_BRACKET)
    return max(accumulate(map(_STEP.__getitem__, brackets)), default=0)
