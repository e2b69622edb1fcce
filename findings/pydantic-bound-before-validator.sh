#!/usr/bin/env bash
# pydantic 2.14.3: a bound of a number that stands outside of a validator is enforced, but the JSON schema says "ge": 1
# where JSON Schema's word is "minimum". Readers of schemas take no notice of an unknown word.
#
# Where it hurts: a shared type adds a validator to int (`Strict = Annotated[int, BeforeValidator(f)]`), and fields add
# their bounds to it (`Annotated[Strict, Field(ge=1)]`). The server refuses 0, while by its OpenAPI description any
# integer will do: generated clients send it, and fuzzers report valid requests that are refused.
#
# Expected: the schema states an enforced bound in JSON Schema's words, whatever the order; as it does for a text.
# Seen:
#   int, Field(ge=1) inside, validator outside    0 is refused; {"minimum": 1}
#   int, validator inside, Field(ge=1) outside    0 is refused; {"ge": 1}; the same for le, gt, lt and multiple_of
#   str, validator inside, min_length outside     "" is refused; {"minLength": 1}
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check pydantic==2.14.3
"$work/venv/bin/python" - <<'PYTHON'
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field, TypeAdapter, ValidationError


def same(value: Any) -> Any:
    return value


def look(kind: Any, bad: Any) -> tuple[bool, dict[str, Any]]:
    adapter = TypeAdapter(kind)
    try:
        adapter.validate_python(bad)
    except ValidationError:
        refused = True
    else:
        refused = False
    schema = adapter.json_schema()
    schema.pop("type")
    return refused, schema


inside = Annotated[Annotated[int, Field(ge=1)], BeforeValidator(same)]
assert look(inside, 0) == (True, {"minimum": 1})
for validator in (BeforeValidator, AfterValidator):
    for bound, bad in (("ge", 0), ("le", 2), ("gt", 1), ("lt", 1), ("multiple_of", 3)):
        value = 2 if bound == "multiple_of" else 1
        outside = Annotated[Annotated[int, validator(same)], Field(**{bound: value})]
        assert look(outside, bad) == (True, {bound: value}), (bound, look(outside, bad))
text = Annotated[Annotated[str, BeforeValidator(same)], Field(min_length=1)]
assert look(text, "") == (True, {"minLength": 1})
print("as described")
PYTHON
