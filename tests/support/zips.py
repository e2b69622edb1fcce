"""A version's zip as the server sends it."""

from __future__ import annotations

import hashlib
import io
import json
import zipfile

from mindprint.downloads import CONFIG, MANIFEST, WEIGHTS

WEIGHTS_OF = b"weights" * 1000


def zipped(**changes: bytes | None) -> bytes:
    """A version's zip, some of its files (by the end of their names) changed or left out."""
    digest = hashlib.sha256(WEIGHTS_OF).hexdigest()
    files: dict[str, bytes | None] = {
        CONFIG: b'{"r": 8}',
        WEIGHTS: WEIGHTS_OF,
        MANIFEST: json.dumps({"weights_sha256": digest}).encode(),
        **changes,
    }
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as out:
        for name, content in files.items():
            if content is not None:
                out.writestr(name, content)
    return packed.getvalue()
