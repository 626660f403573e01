"""What a model can do without: image tokens and MLP units that go, and the answers that stay. (The function is `thin`.)"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Sequence
from pathlib import Path

from medlens import _record, store
from medlens._prepare import Nobody, Watcher, prepare
from medlens._thin.answers import WHAT, going_without, steps
from medlens.budget import Meter
from medlens.errors import BadInput
from medlens.findings import Findings
from medlens.models import Model
from medlens.plan import Plan
from medlens.report.thin import write_thin
from medlens.types import Sample
from medlens.unfinished import explained, unfinished

SHARES = (0.25, 0.5, 0.75, 0.9, 0.95)
AFTER, DRAWS = 2, 5


def thin(
    model: Model | str | Path = "phantom",
    samples: Sequence[Sample] | str | Path = "phantom",
    out: str | Path = "runs/thin",
    plan: Plan = Plan(),  # noqa: B008 (frozen)
    *,
    what: Sequence[str] = tuple(WHAT),
    shares: Sequence[float] = SHARES,
    after: int = AFTER,
    draws: int = DRAWS,
    watcher: Watcher | None = None,
) -> store.Run:
    """Take image tokens or MLP units out of a model, share by share, and count the answers that stay the same; write a run.

    what: "dropped" (image tokens behind block `after`, those that get the least attention there: FastV, Chen et al. 2024), "merged"
    (the same, joined to the kept token most like them: after ToMe, Bolya et al. 2023) and "units" (of MLPs, those that write least:
    see `medlens.walk.silent`); each also in random order, `draws` times (units: as many of each block). Images (patients, where the
    data name them) are dealt out to halves: which units write least is found on discovery images, and all answers are those to test
    images, greedy, compared as words. Intervals are 95 %, clustered by image; of `over_random` by leaving out one image at a time.
    plan: limit, seed, max_new_tokens, and how the model is loaded.

    The run has the table `thinned` (see `tables.thinned`) and a page, report.html. Nothing gets faster: what goes is hidden, not
    cut out. `medlens.edit` writes a checkpoint without units.

    Raises a MedlensError: see `study`; BadInput for shares outside 0 to 1 (merged: below 1), what is none of these, a block that is
    not there, fewer than four images; BadModel for blocks without `mlp.down_proj` (units) or a mask (tokens).
    """
    watcher, out = watcher or Nobody(), Path(out)
    _check(plan, what, shares, draws)
    store.check_place(out)
    with Meter() as meter, explained(out):
        prepared = prepare(model, samples, plan, watcher)
        if not any("image" in prompt.tokens.groups for prompt in prepared.prompts):
            raise BadInput(f"it is asked what of an image can go; none of {len(prepared.prompts)} samples has one")
        told = {"what": list(what), "shares": list(shares), "after": after, "draws": draws}
        identity = prepared.identity | {"thin": hashlib.sha256(json.dumps(told).encode()).hexdigest()[:16]}
        if (done := store.finished(out, identity)) is not None:
            return done
        began = time.monotonic()
        with unfinished(out, identity) as work:
            watcher.begin("answering without", steps(what, shares, draws))
            rows = going_without(
                prepared.model, prepared.prompts, what, shares, after, draws, plan.max_new_tokens, plan.seed, watcher.tick
            )
            with work.becoming(out) as folder:
                _record.write_tables(folder, prepared.intake, [None] * len(prepared.prompts), Findings())
                store.write_table(folder, "claims", [])
                store.write_table(folder, "thinned", rows)
                seconds = {"answering": round(time.monotonic() - began, 2)}
                store.write_manifest(folder, prepared.manifest(identity, seconds, meter.peak) | {"thin": told})
                write_thin(folder)
    return store.open_run(out)


def _check(plan: Plan, what: Sequence[str], shares: Sequence[float], draws: int) -> None:
    if unknown := [one for one in what if one not in WHAT]:
        raise BadInput(f"what goes is among {', '.join(WHAT)}; got {unknown[0]!r}")
    if not what or len(set(what)) < len(what):
        raise BadInput(f"what goes is one or more of {', '.join(WHAT)}, each once; got {tuple(what)}")
    if not shares or not all(0 <= share <= 1 for share in shares) or len(set(shares)) < len(shares):
        raise BadInput(f"shares are from 0 to 1, one or more, each once; got {tuple(shares)}")
    if draws < 1:
        raise BadInput(f"random order is drawn at least once; got {draws}")
    if plan.workers > 1 or plan.cluster is not None or plan.answers == "given":
        raise BadInput("answers are written here, in one process: leave out workers, cluster and given answers")
