"""What all pages have in common: their shell (`shell.html.j2`), their style (`base.css`), and how templates are rendered."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import jinja2


def environment(folder: Path, **filters: Callable[..., object]) -> jinja2.Environment:
    """For the templates of a folder. Everything that comes from data or model is escaped, and what a template lacks is an error."""
    folders = [folder, Path(__file__).parent]
    made = jinja2.Environment(loader=jinja2.FileSystemLoader(folders), autoescape=True, undefined=jinja2.StrictUndefined)
    made.filters |= {"moment": moment, **filters}
    return made


def moment(created: str) -> str:
    """Of a manifest, as people write it."""
    return created[:16].replace("T", " ") + " UTC"
