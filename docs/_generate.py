"""Write the generated pages and pictures of the site. `--check` only says whether they are stale.

Run it after a change of routes, commands, settings, errors, metrics or states.
"""

from __future__ import annotations

import sys
from pathlib import Path

DOCS = Path(__file__).resolve().parent
sys.path[:0] = [str(DOCS), *(str(DOCS.parent / part) for part in ("client", "server", "trainer"))]

import _clients  # noqa: E402
import _errors  # noqa: E402
import _pictures  # noqa: E402
import _reference  # noqa: E402
import _settings  # noqa: E402


def generated() -> dict[Path, str]:
    """Render every generated file, by its path."""
    pages = {
        "http-api": _reference.http_api(),
        "cli": _reference.cli(),
        "settings-server": _settings.settings_server(),
        "settings-trainer": _settings.settings_trainer(),
        "vllm-options": _settings.vllm_options(),
        "errors": _errors.errors(),
        "metrics": _reference.metrics(),
        "states": _reference.states(),
        "clients": _clients.clients(),
    }
    files = {DOCS / "reference" / f"{name}.md": text for name, text in pages.items()}
    return files | {DOCS / "assets" / name: text for name, text in _pictures.pictures().items()}


def stale(files: dict[Path, str]) -> list[Path]:
    """Return the files whose text differs from what is rendered now."""
    return [path for path, text in files.items() if not path.exists() or path.read_text(encoding="utf-8") != text]


def main() -> int:
    """Write what is stale; with `--check` return 1 instead if anything is."""
    files = generated()
    old = stale(files)
    check = "--check" in sys.argv
    for path in old:
        print(f"{'stale, run python docs/_generate.py' if check else 'written'}: {path.relative_to(DOCS.parent)}")
        if not check:
            path.parent.mkdir(exist_ok=True)
            path.write_text(files[path], encoding="utf-8")
    return int(check and bool(old))


if __name__ == "__main__":
    sys.exit(main())
