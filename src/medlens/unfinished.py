"""A run on its way: a folder `NAME.part` beside its place, from which the same command goes on after a kill or on a full disk.

What is in it: `identity.json` (of which study it is), `answers.jsonl` (those that are written), `progress.json` (what the last
finished block left), the states that wait for the next block, and at the end `run/`, which becomes the run.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from medlens.errors import BadRun, CannotWrite
from medlens.jsontext import parse
from medlens.store import write
from medlens.types import Answer

IDENTITY, PROGRESS, ANSWERS, LOCK = "identity.json", "progress.json", "answers.jsonl", "lock"


class Unfinished:
    """The folder, and what stands in it. scratch: where large files go."""

    def __init__(self, folder: Path, scratch: Path) -> None:
        self.folder, self.scratch = folder, scratch

    def within(self, name: str) -> Unfinished:
        """A part of the work with a progress and files of its own, so that they are not taken for another's."""
        inner = Unfinished(self.folder / name, self.scratch / name)
        inner.folder.mkdir(exist_ok=True)
        inner.scratch.mkdir(exist_ok=True)
        return inner

    @property
    def progress(self) -> dict[str, Any]:
        """What was noted when the last block was finished; empty before that."""
        path = self.folder / PROGRESS
        return _told(path) if path.exists() else {}

    def note(self, progress: Mapping[str, Any]) -> None:
        """Note it, whole or not at all."""
        fresh = self.folder / f"{PROGRESS}.new"
        write(fresh, json.dumps(progress))
        fresh.replace(self.folder / PROGRESS)

    def answers(self) -> list[Answer]:
        """Those that are written, in order; a last one that was cut off is left out, and taken away."""
        path = self.folder / ANSWERS
        if not path.exists():
            return []
        try:
            *whole, rest = path.read_text(encoding="utf-8").split("\n")
            found = [Answer(**parse(line)) for line in whole]
        except (ValueError, TypeError) as e:
            raise _damaged(path) from e
        if rest:
            write(path, "".join(f"{line}\n" for line in whole))
        return found

    def add_answer(self, said: Answer) -> None:
        line = json.dumps({"text": str(said), "ids": said.ids, "logprobs": said.logprobs, "ended": said.ended})
        with (self.folder / ANSWERS).open("a", encoding="utf-8") as file:
            file.write(line + "\n")

    @contextmanager
    def becoming(self, out: Path) -> Iterator[Path]:
        """A folder to write the run into; becomes `out` when the context ends well."""
        folder = self.folder / "run"
        shutil.rmtree(folder, ignore_errors=True)  # of one who was killed here
        folder.mkdir()
        yield folder
        _rename(folder, out)


@contextmanager
def unfinished(out: Path, identity: Mapping[str, str], scratch: Path | None = None) -> Iterator[Unfinished]:
    """Begin or go on with the run that becomes `out`.

    Vanishes when all is done, and when it fails for a reason that stays one; is left to be gone on with when it is stopped from
    outside or the disk is full. scratch: a folder for large files, other than the run's own. Raises BadRun for what another study,
    or another process at work, has left there; CannotWrite.
    """
    out = out.absolute()
    folder = out.with_name(out.name + ".part")
    with explained(out), _parents(folder):
        folder.mkdir(exist_ok=True)
        large = folder if scratch is None else scratch / f"{out.name}.part"
        large.mkdir(exist_ok=True)
        with locked(folder):
            refuse_another(folder, identity)
            try:
                write(folder / IDENTITY, json.dumps(identity))
                yield Unfinished(folder, large)
            except BaseException as e:
                if not _worth_keeping(folder, e):
                    _remove(folder, large)
                raise
            _remove(folder, large)


@contextmanager
def writing(out: Path) -> Iterator[Path]:
    """A folder to write into, for what is not gone on with; becomes `out` when the context ends well, else it vanishes."""
    out = out.absolute()
    folder = out.with_name(f"{out.name}.part")
    with explained(out), _parents(folder):
        folder.mkdir()
        try:
            yield folder
            _rename(folder, out)
        except BaseException:
            _remove(folder)
            raise


def remove_rests(out: Path, scratch: Path | None = None) -> None:
    """What a process that was killed between its last two steps has left beside a finished run."""
    folder = out.absolute().with_name(out.name + ".part")
    if folder.exists():
        with locked(folder):
            _remove(folder, folder if scratch is None else scratch / folder.name)


@contextmanager
def _parents(folder: Path) -> Iterator[None]:
    """The folders above it, taken away again where they were not there before and nothing is in them in the end."""
    missing = [parent for parent in folder.parents if not parent.exists()]
    folder.parent.mkdir(parents=True, exist_ok=True)
    try:
        yield
    finally:
        for parent in missing:
            if not any(parent.iterdir()):
                parent.rmdir()


def _remove(*folders: Path) -> None:
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)


def _worth_keeping(folder: Path, failure: BaseException) -> bool:
    """Whether something is done already, and nothing speaks against going on: the disk was full, or somebody stopped us."""
    done = (folder / PROGRESS).exists() or (folder / ANSWERS).exists()
    return done and (isinstance(failure, OSError) or not isinstance(failure, Exception))


def check_identity(folder: Path, identity: Mapping[str, str]) -> None:
    """Write down whose folder it is, or raise BadRun where it is another's."""
    refuse_another(folder, identity)
    write(folder / IDENTITY, json.dumps(identity))


def refuse_another(folder: Path, identity: Mapping[str, str]) -> None:
    """Raise BadRun for a folder that is another study's."""
    path = folder / IDENTITY
    found = _told(path) if path.exists() else identity
    if other := [what for what in identity if found.get(what) != identity[what]]:
        raise BadRun(
            f"{folder.name} holds the beginning of another study ({' and '.join(other)} differ); choose another --out, or delete it"
        )


def _told(path: Path) -> dict[str, Any]:
    try:
        told = parse(path.read_text(encoding="utf-8"))
    except ValueError as e:
        raise _damaged(path) from e
    if not isinstance(told, dict):
        raise _damaged(path)
    return told


def _damaged(path: Path) -> BadRun:
    return BadRun(f"{path.parent.name}/{path.name} is damaged, so that nothing can be gone on with; delete {path.parent.name}")


@contextmanager
def locked(folder: Path, wait: bool = False) -> Iterator[None]:
    """One process at a time. Another one waits, or is refused (BadRun)."""
    with (folder / LOCK).open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError as e:
            raise BadRun(f"another process is at work on {folder.name}; wait for it, or choose another --out") from e
        yield


def _rename(folder: Path, out: Path) -> None:
    try:
        folder.replace(out)
    except OSError as e:
        if e.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise
        raise BadRun(f"{out.name} was written by another process meanwhile; its run was kept, this one discarded") from e


@contextmanager
def explained(out: Path) -> Iterator[None]:
    """Errors of the file system as CannotWrite, with what is left and what to do."""
    try:
        yield
    except OSError as e:
        why = "the disk is full" if e.errno in (errno.ENOSPC, errno.EDQUOT) else (e.strerror or str(e))
        part = out.with_name(out.name + ".part")
        rest = (
            f"what is done stands in {part.name}: the same command goes on from there"
            if part.exists()
            else f"nothing was left behind in {os.fspath(out.parent)}"
        )
        raise CannotWrite(f"cannot write {out.name}: {why}; {rest}") from e
