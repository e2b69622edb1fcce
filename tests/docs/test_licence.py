"""The licence that the package names is there, and no locked package has one that the page does not list."""

from __future__ import annotations

import re
import tomllib
from email.message import Message
from fnmatch import fnmatch
from importlib.metadata import PackageNotFoundError, metadata
from pathlib import Path
from typing import cast

import pytest

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "operations" / "licences.md"
CPU, GPU = (
    re.findall(r"^([A-Za-z0-9._-]+)==", (ROOT / "deploy" / "locks" / f"{name}.txt").read_text(), re.MULTILINE)
    for name in ("cpu", "gpu")
)
ONLY_GPU = sorted(set(GPU) - set(CPU))
KEEP_THE_NOTICE = re.compile(
    r"MIT|BSD|ISC|Apache|Python Software Foundation|PSF|Unlicense|0BSD|CC0|BSL-1\.0|CNRI", re.IGNORECASE
)
WITHOUT_A_NAME = {"oss-harmony": "Apache 2.0", "setuptools": "MIT"}
"""Packages whose metadata names only a file; the licence is what that file holds."""


def licence_of(package: str) -> str:
    """Return the licence of an installed package, as its metadata names it."""
    found = cast(Message, metadata(package))
    classifiers = [each for each in found.get_all("Classifier") or [] if each.startswith("License ::")]
    named = found.get("License-Expression") or "; ".join(each.split(" :: ")[-1] for each in classifiers)
    if named in ("", "OSI Approved"):
        named = (found.get("License") or "").partition("\n")[0]
    return named or WITHOUT_A_NAME.get(package, "")


def test_the_package_names_the_licence_that_is_there() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert (project["license"], project["license-files"]) == ("Apache-2.0", ["LICENSE"])
    text = (ROOT / "LICENSE").read_text()
    assert "Apache License" in text
    assert "Version 2.0, January 2004" in text
    assert "END OF TERMS AND CONDITIONS" in text


def names_on_page() -> list[str]:
    """Return the names of packages that the page has; `nvidia-*` stands for all with that prefix."""
    return re.findall(r"`([^`\s]+)`", PAGE.read_text())


@pytest.mark.parametrize("package", ONLY_GPU)
def test_the_page_names_each_package_that_only_a_gpu_build_has(package: str) -> None:
    assert any(fnmatch(package, name) for name in names_on_page()), f"name {package} on the page, with what it asks"


@pytest.mark.parametrize("package", [*CPU, *ONLY_GPU])
def test_the_licence_of_a_locked_package_is_listed(package: str) -> None:
    """One that asks for more than its notice stands on the page by name."""
    try:
        licence = licence_of(package)
    except PackageNotFoundError:
        pytest.skip(f"{package} is not installed here")
    asks_more = re.search(r"GPL|MPL|Mozilla|Proprietary|EULA|Commercial", licence)
    if asks_more or not KEEP_THE_NOTICE.search(licence):
        assert any(fnmatch(package, name) for name in names_on_page()), (
            f"{package} is under {licence!r}: check it, and list it"
        )
