"""Tries the features of one client and prints what it saw. The client's own environment runs it."""

from __future__ import annotations

import importlib
import json
import sys
from importlib.metadata import version
from typing import Any

from surface import FEATURES, Partly, Refused, Target


def try_feature(feature: Any) -> dict[str, str]:
    """Return what came of one feature: `yes`, `partly`, `refused` or `no`, the latter three with a reason."""
    try:
        seen = feature()
    except Exception as error:
        return {"result": "no", "why": f"{type(error).__name__}: {error}"}
    if isinstance(seen, Refused | Partly):
        return {"result": type(seen).__name__.lower(), "why": seen.why}
    return {"result": "yes"}


def main(module: str) -> None:
    """Try all that the client of a module offers."""
    found = importlib.import_module(module)
    client = found.Client(Target.from_environment())
    features = {name: try_feature(getattr(client, name)) for name in FEATURES if hasattr(client, name)}
    client.close()
    print(json.dumps({"versions": {name: version(name) for name in found.PACKAGES}, "features": features}))


if __name__ == "__main__":
    main(sys.argv[1])
