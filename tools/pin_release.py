#!/usr/bin/env python3
"""Write requirements-release.txt: everything that medlens needs at run time, each with one version and the SHA-256 of its file.

The versions are those of constraints.txt, the files those that pip chooses for this Python on this platform: run it once for each
that is released for. pip is asked what it would install and installs nothing; what this machine's pip is told in its settings
(wheels on its own disk, other indexes) is left out, because nobody else has it. Installed with

    pip install --require-hashes -r requirements-release.txt
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
HEAD = "# Written by tools/pin_release.py for {implementation} {python}, {system} {machine}. Installed with pip --require-hashes.\n"


def wanted(root: Path) -> list[str]:
    """The project's run-time requirements."""
    return tomllib.loads((root / "pyproject.toml").read_text())["project"]["dependencies"]


def report(root: Path) -> dict[str, Any]:
    """What pip would install for them."""
    settings = {k: v for k, v in os.environ.items() if k not in ("PIP_FIND_LINKS", "PIP_CONSTRAINT", "PIP_EXTRA_INDEX_URL")}
    with tempfile.TemporaryDirectory() as place:
        told = Path(place) / "report.json"
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--dry-run", "--ignore-installed", "--only-binary=:all:"]
        command += ["--report", str(told), "--constraint", str(root / "constraints.txt"), *wanted(root)]
        subprocess.run(command, check=True, env=settings | {"PIP_CONFIG_FILE": os.devnull})
        return json.loads(told.read_text())


def pinned(found: dict[str, Any]) -> str:
    """The lines of the file, by name. Raises ValueError for a file without a hash, or one of this machine alone."""
    lines = []
    for item in found["install"]:
        name, number = item["metadata"]["name"].lower().replace("_", "-"), item["metadata"]["version"]
        digest = item["download_info"].get("archive_info", {}).get("hashes", {}).get("sha256")
        if digest is None or "+" in number:
            raise ValueError(f"{name} {number} has no hash that others could check: it is a file of this machine alone")
        lines.append(f"{name}=={number} \\\n    --hash=sha256:{digest}\n")
    return "".join(sorted(lines))


def main() -> None:
    about = {"implementation": platform.python_implementation(), "python": platform.python_version()}
    head = HEAD.format(**about, system=platform.system(), machine=platform.machine())
    out = ROOT / "requirements-release.txt"
    lines = pinned(report(ROOT))
    out.write_text(head + lines)
    print(f"{out.name}: {lines.count('==')} packages")


if __name__ == "__main__":
    main()
