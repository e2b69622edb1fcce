#!/usr/bin/env bash
# msgspec 0.22.0: subclasses of dict and list are encoded, subclasses of str, int, float and bytes are not; and its own
# `convert` treats each of the four in another way.
#
# Where it hurts: msgspec carries requests between the processes of an inference engine. numpy.str_ is a str and
# numpy.float64 is a float, so a request with a name or a temperature taken from an array passes isinstance and the
# constructor, and fails only when it is sent.
#
# Expected: built-in scalars and built-in containers are treated alike when they are subclassed, as the standard
#   library's json does; and what `convert` returns for a field of type str can be encoded.
# Seen:
#   encode   dict, list: yes; str, int, float, bytes: TypeError "Encoding objects of type ... is unsupported"
#   convert  int, bytes: a plain copy; float: ValidationError; str: accepted, and the subclass is returned as it is,
#            so the converted value cannot be encoded
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check msgspec==0.22.0 numpy==2.3.5
"$work/venv/bin/python" - <<'PYTHON'
import collections
import enum
import json

import msgspec
import numpy as np


class Request(msgspec.Struct):
    adapter: str
    temperature: float


def encodes(value: object) -> bool:
    try:
        msgspec.msgpack.encode(value)
    except TypeError as error:
        assert "is unsupported" in str(error), error
        return False
    return True


def sub(kind: type, value: object) -> object:
    return type(f"My{kind.__name__}", (kind,), {})(value)


scalars = [sub(str, "user"), np.str_("user"), sub(float, 0.7), np.float64(0.7), sub(int, 3)]
containers = [collections.OrderedDict(a=1), collections.Counter("aab"), sub(list, [1])]
for value in scalars + containers:
    json.dumps(value)  # the standard library writes them all

assert [encodes(value) for value in [*scalars, sub(bytes, b"x")]] == [False] * 6
assert [encodes(value) for value in containers] == [True] * 3
assert encodes(enum.StrEnum("Kind", {"USER": "user"}).USER)  # this str subclass is encoded: it is an enumeration

assert type(msgspec.convert(sub(int, 3), int)) is int
assert type(msgspec.convert(sub(bytes, b"x"), bytes)) is bytes
for number in (sub(float, 0.7), np.float64(0.7)):
    try:
        msgspec.convert(number, float)
        raise SystemExit("a float subclass is accepted now")
    except msgspec.ValidationError:
        pass
for text in (sub(str, "user"), np.str_("user")):
    converted = msgspec.convert(text, str)
    assert converted is text and not encodes(converted)

assert not encodes(Request(adapter=np.str_("user"), temperature=0.7))
assert not encodes(Request(adapter="user", temperature=np.float64(0.7)))
assert encodes(Request(adapter="user", temperature=0.7))
print("as described: msgspec", msgspec.__version__, "with numpy", np.__version__)
PYTHON
