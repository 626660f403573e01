#!/usr/bin/env python3
"""Print what medlens is made of here, as CycloneDX 1.5: itself and every package that it needs at run time, as they are installed.

From the installed packages' own metadata; nothing is fetched. The same installation gives the same bytes: there is no time in it,
and its serial number is made of its contents.
"""

from __future__ import annotations

import json
import sys
import uuid
from importlib.metadata import Distribution, distribution
from typing import Any

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

SPACE = uuid.UUID("6c6f6f6b-6564-5f69-8e73-696465000000")  # of serial numbers; any will do, as long as it stays


def closure(name: str) -> dict[str, tuple[Distribution, list[str]]]:
    """Every package that `name` needs, itself first: its distribution and what it needs in turn, by their normal names. Extras that
    one asks of another are followed: torch's CUDA libraries are extras of `cuda-toolkit`."""
    found: dict[str, tuple[Distribution, list[str]]] = {}
    followed: dict[str, set[str]] = {}
    waiting = [Requirement(name)]
    while waiting:
        asked = waiting.pop(0)
        at, extras = canonicalize_name(asked.name), {"", *asked.extras}
        if extras <= followed.setdefault(at, set()):
            continue
        followed[at] |= extras
        held = distribution(at)
        needed = [n for n in map(Requirement, held.requires or ()) if _applies(n, followed[at])]
        found[at] = (held, sorted({canonicalize_name(n.name) for n in needed}))
        waiting += needed
    return found


def _applies(needed: Requirement, extras: set[str]) -> bool:
    return needed.marker is None or any(needed.marker.evaluate({"extra": extra}) for extra in extras)


def component(name: str, held: Distribution) -> dict[str, Any]:
    purl = f"pkg:pypi/{name}@{held.version}"
    expression, said = held.metadata.json.get("license_expression"), _classified(held)
    licence = [{"expression": expression}] if expression else [{"license": {"name": said}}] if said else []
    made: dict[str, Any] = {"type": "library", "bom-ref": purl, "name": name, "version": held.version, "purl": purl}
    return made | ({"licenses": licence} if licence else {})


def _classified(held: Distribution) -> str | None:
    """The licence by the classifiers; else by the old field, where it is a name and not a text."""
    named = [c.rpartition(" :: ")[2] for c in held.metadata.get_all("Classifier") or () if c.startswith("License :: ")]
    old = str(held.metadata.json.get("license", "")).strip()
    return ", ".join(sorted(named)) or (old if old and "\n" not in old else None)


def bill(name: str = "medlens") -> dict[str, Any]:
    """The bill of materials, as CycloneDX lays it out."""
    found = closure(name)
    made = {at: component(at, held) for at, (held, _) in found.items()}
    needs = [
        {"ref": made[at]["bom-ref"], "dependsOn": sorted(made[n]["bom-ref"] for n in needed)}
        for at, (_, needed) in sorted(found.items())
    ]
    body = {
        "metadata": {"component": made[canonicalize_name(name)] | {"type": "application"}},
        "components": [made[at] for at in sorted(made) if at != canonicalize_name(name)],
        "dependencies": needs,
    }
    serial = uuid.uuid5(SPACE, json.dumps(body, sort_keys=True))
    return {"bomFormat": "CycloneDX", "specVersion": "1.5", "serialNumber": f"urn:uuid:{serial}", "version": 1, **body}


if __name__ == "__main__":
    sys.stdout.write(json.dumps(bill(), indent=2) + "\n")
