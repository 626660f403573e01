"""Many machines, through Ray Core: the only file that imports ray. One actor a share, each with a model of its own; what an actor
hands over travels through Ray's object store. A lost actor is replaced by one that walks its share again."""

from __future__ import annotations

import logging
import os
import re
import socket
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from medlens._prepare import Nobody, prepare
from medlens._share import Share
from medlens.errors import BadInput, MedlensError, WorkerLost
from medlens.plan import Plan
from medlens.types import Answer

NOBODY = "no Ray cluster answers at {!r}; start one (ray start --head), give its address, or take --workers"
PATIENCE = 10  # seconds for a machine to answer
TRIES = 3  # lives of one actor between two parts
TOKEN = Path("~/.ray/auth_token")  # where Ray keeps the one that it makes with its first cluster


class Worker:
    """One share, on whatever machine Ray puts it."""

    def __init__(self, model: str, samples: str, plan: dict[str, Any], number: int, of: int) -> None:
        self._folder = tempfile.TemporaryDirectory(dir=plan.get("scratch"))
        folder = Path(self._folder.name)
        self._share = Share(prepare(model, samples, Plan.from_dict(plan), Nobody(), folder), number, of, folder)
        self._answers, self._told = self._share.answers(lambda: None)
        self._parts: Iterator[dict[str, Tensor]] | None = None
        self._next = 0

    def answers(self) -> list[dict[str, Any]]:
        return [{"text": str(a), "ids": a.ids, "logprobs": a.logprobs, "ended": a.ended} for a in self._answers if a is not None]

    def part(self, block: int) -> dict[str, Any]:
        """The sums of a block. Blocks are asked for in order."""
        if self._parts is None:
            self._parts, self._next = self._share.parts(self._told, block, lambda: None), block
        if block != self._next:
            raise RuntimeError(f"block {block} was asked for, {self._next} is next")
        self._next += 1
        return {name: tensor.cpu().numpy() for name, tensor in next(self._parts).items()}


class Actors:
    """`plan.workers` actors (by default one for each machine, or for each GPU), behind the same interface as `_crew.Processes`."""

    def __init__(self, model: str, samples: str, plan: Plan, begun: int) -> None:
        self._ray = _connected(str(plan.cluster))
        resources = self._ray.cluster_resources()
        gpu = plan.device.startswith("cuda")
        machines = sum(bool(node["Alive"]) for node in self._ray.nodes())
        self.count = plan.workers if plan.workers > 1 else max(1, int(resources.get("GPU", 0)) if gpu else machines)
        cores = max(1, int(resources.get("CPU", 1)) // self.count)
        self._kind = self._ray.remote(num_cpus=cores, num_gpus=int(gpu))(Worker)
        self._orders = (model, samples, plan.as_dict())
        self._workers = [self._hire(k) for k in range(self.count)]
        self._coming: list[Any] = []
        self._ahead(begun)

    def __enter__(self) -> Actors:
        return self

    def __exit__(self, *_: object) -> None:
        for worker in self._workers:
            self._ray.kill(worker)
        self._ray.shutdown()

    def answers(self) -> list[list[Answer]]:
        """Of each worker, in the order of its prompts."""
        return [[Answer(**a) for a in self._get(k, lambda w: w.answers.remote())] for k in range(self.count)]

    def parts(self, block: int) -> Iterator[Mapping[str, Tensor]]:
        """What each worker hands over of a block, one after the other; they go on with the next one meanwhile."""
        coming = self._coming
        self._coming = []
        for k, reference in enumerate(coming):
            found = self._get(k, lambda w: w.part.remote(block), reference)
            self._coming.append(self._workers[k].part.remote(block + 1))
            yield {name: torch.from_numpy(array.copy()) for name, array in found.items()}

    def _ahead(self, block: int) -> None:
        self._coming = [worker.part.remote(block) for worker in self._workers]

    def _hire(self, k: int) -> Any:
        return self._kind.remote(*self._orders, k, self.count)

    def _get(self, k: int, ask: Any, reference: Any = None) -> Any:
        """What a worker answers; a lost one is replaced, and asked again."""
        for _ in range(TRIES):
            try:
                return self._ray.get(reference if reference is not None else ask(self._workers[k]))
            except self._ray.exceptions.RayTaskError as e:
                cause = e.cause
                raise cause if isinstance(cause, MedlensError) else e  # noqa: B904 (the same error, from there)
            except self._ray.exceptions.RayActorError:
                self._workers[k], reference = self._hire(k), None
        raise WorkerLost(f"worker {k + 1} of the cluster was lost {TRIES} times")


def _connected(address: str) -> Any:
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"  # nothing is reported to anybody
    if TOKEN.expanduser().is_file():  # then `ray start` asks for it, and who joins must be told to show it
        os.environ.setdefault("RAY_AUTH_MODE", "token")
    try:
        import ray
    except ImportError as e:
        raise BadInput("--cluster needs Ray: pip install 'medlens[ray]'") from e
    _knock(address)
    try:
        ray.init(address=address, logging_level=logging.ERROR, log_to_driver=False)
    except (ConnectionError, ValueError, RuntimeError) as e:
        raise WorkerLost(NOBODY.format(address)) from e
    return ray


def _knock(address: str) -> None:
    """Ray itself would go on trying for minutes."""
    found = re.fullmatch(r"(?:ray://)?(.+):(\d+)", address)
    try:
        if found:
            socket.create_connection((found[1], int(found[2])), timeout=PATIENCE).close()
    except (OSError, OverflowError) as e:
        raise WorkerLost(NOBODY.format(address)) from e
