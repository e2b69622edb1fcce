"""PEFT's patterns of module names: the keys of `rank_pattern` and `alpha_pattern`.

PEFT and vLLM take the first key that matches a module, as a regular expression at the end of its name. An upload may
not bring any expression: some need exponential time, in the server and in the engine. So only simple ones are served.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import TypeVar

T = TypeVar("T")
_NAME = re.compile(r"\^?(?:[\w-]|\\?\.)+\$?", re.ASCII)
"""A module name or its end, with or without escaped dots. It is matched in linear time."""
_SIMPLE = re.compile(r"\^?(?:[\w-]|\\?\.|\\d\+?|\[0-9\]\+?|\(\?:|[()|]|\.\*)+\$?", re.ASCII)
"""Also numbers, groups without repetition, alternatives and `.*`."""
MAX_EXPRESSIONS = 16
"""Keys of one pattern that are more than names. With the other two bounds, all modules of a large model take a second
at most."""
MAX_ALTERNATIVES = 8
"""Bars of one key. Each may double the time."""
MAX_WILDCARDS = 1
"""Repetitions of any character in one key."""
MAX_REPETITIONS = 2
"""Repetitions in one key: `.*`, `\\d+` and `[0-9]+`. Each multiplies the time by the length of a module's name."""
MAX_KEY_LENGTH = 256
"""Characters of a key. Names of modules have fewer than 150."""
_REPETITION = re.compile(r"\.\*|\\d\+|\[0-9\]\+")


def find_refused_key(keys: Collection[str]) -> str | None:
    """Return the first key of a pattern that is not simple enough to be served; None if all are."""
    expressions = 0
    for key in keys:
        if len(key) > MAX_KEY_LENGTH:
            return key
        if _NAME.fullmatch(key):
            continue
        expressions += 1
        if expressions > MAX_EXPRESSIONS or not _is_simple(key):
            return key
    return None


def match_module(pattern: Mapping[str, T], module: str, default: T) -> T:
    """Return the value of the first key that matches a module, by the rule of PEFT's `get_pattern_key`.

    Args:
        pattern: `rank_pattern` or `alpha_pattern`; `find_refused_key` has found none of its keys.
        module: Name of the module in the base model.
        default: Returned if no key matches.
    """
    return next((value for key, value in pattern.items() if re.match(rf"(.*\.)?({key})$", module)), default)


def _is_simple(key: str) -> bool:
    if not _SIMPLE.fullmatch(key) or key.count("|") > MAX_ALTERNATIVES or key.count(".*") > MAX_WILDCARDS:
        return False
    if len(_REPETITION.findall(key)) > MAX_REPETITIONS:
        return False
    if "|" in key and ".*" in key:
        return False
    try:
        re.compile(key)
    except re.error:
        return False
    return True
