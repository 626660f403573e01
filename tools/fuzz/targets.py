"""All targets."""

from __future__ import annotations

from tools.fuzz import models, pictures, questions, runs
from tools.fuzz.target import Target

TARGETS: tuple[Target, ...] = (*pictures.TARGETS, *questions.TARGETS, *models.TARGETS, *runs.TARGETS)
