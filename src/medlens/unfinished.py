"""A run on its way: a folder `NAME.part` beside its place, from which the same command goes on after a kill or on a full disk.

What is in it: `identity.json` (of which study it is), `begun/` (what is known before the work: who is studied, and on what),
`answers.jsonl` (those that are written), `progress.json` (what the last finished block left), the states that wait for the next
block, and at the end `run/`, which becomes the run. Whoever goes on trusts nothing that is not whole: such a folder may have been
copied while it was written.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from medlens.errors import BadRun, CannotWrite, MedlensError, OutOfMemory, WorkerLost
from medlens.jsontext import parse
from medlens.store import write
from medlens.types import Answer

IDENTITY, PROGRESS, ANSWERS, LOCK = "identity.json", "progress.json", "answers.jsonl", "lock"
BEGUN = "begun"  # folder
NO_MEMORY = ("can't allocate memory", "out of memory")  # in what torch says: of the machine's, of a GPU's


class Unfinished:
    """The folder, and what stands in it. scratch: where large files go. noted: called with the folder at every progress."""

    def __init__(self, folder: Path, scratch: Path) -> None:
        self.folder, self.scratch = folder, scratch
        self.noted: Callable[[Path], object] = lambda _folder: None

    def within(self, name: str) -> Unfinished:
        """A part of the work with a progress and files of its own, so that they are not taken for another's."""
        inner = Unfinished(self.folder / name, self.scratch / name)
        inner.folder.mkdir(exist_ok=True)
        inner.scratch.mkdir(exist_ok=True)
        return inner

    @property
    def progress(self) -> dict[str, Any]:
        """What was noted when the last block was finished; empty before that, and where it is not what was noted."""
        return noted_in(self.folder)

    def note(self, progress: Mapping[str, Any]) -> None:
        """Note it, whole or not at all, under its own digest."""
        _write_whole(self.folder / PROGRESS, json.dumps({"sha256": _seal(progress), "noted": progress}))
        self.noted(self.folder)

    def sealed(self, files: Iterable[Path]) -> dict[str, str]:
        """The digest of each file in the folder or in the scratch folder, by its name there."""
        return {
            path.relative_to(self.folder if path.is_relative_to(self.folder) else self.scratch).as_posix(): _digest(path)
            for path in files
        }

    def holds(self, sealed: Mapping[str, str]) -> bool:
        """Whether these files are there, and are what they were."""
        return all(
            any((place / name).is_file() and _digest(place / name) == was for place in (self.folder, self.scratch))
            for name, was in sealed.items()
        )

    def answers(self) -> list[Answer]:
        """Those that are written, in order, up to one that was cut off: that and all behind it are taken away."""
        whole, lines = written_in(self.folder)
        if len(whole) < len(lines):
            _write_whole(self.folder / ANSWERS, "".join(lines[: len(whole)]))
        return whole

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


def noted_in(folder: Path) -> dict[str, Any]:
    """What the folder of an unfinished run says of its last finished block; empty where that is not what was noted there."""
    with suppress(FileNotFoundError, ValueError, TypeError, KeyError):
        told = parse((folder / PROGRESS).read_text(encoding="utf-8"))
        if _seal(told["noted"]) == told["sha256"]:
            return told["noted"]
    return {}


def _seal(progress: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(progress).encode()).hexdigest()


def written_in(folder: Path) -> tuple[list[Answer], list[str]]:
    """The answers in the folder of an unfinished run, in order, up to the first that is not whole; and all lines there."""
    if not (folder / ANSWERS).exists():
        return [], []
    lines = (folder / ANSWERS).read_text(encoding="utf-8", errors="replace").splitlines(keepends=True)
    whole: list[Answer] = []
    with suppress(ValueError, TypeError, KeyError):
        for line in lines:
            if not line.endswith("\n"):
                break
            whole.append(_answer(parse(line)))
    return whole, lines


def _answer(told: Any) -> Answer:
    """Raises ValueError, TypeError or KeyError for what is none."""
    answer = Answer(**told)
    kinds = (told["text"], str), (answer.ended, bool), *((word, int) for word in answer.ids), *((p, float) for p in answer.logprobs)
    if any(type(value) is not kind for value, kind in kinds):
        raise ValueError("no answer")
    return answer


@contextmanager
def unfinished(out: Path, identity: Mapping[str, str], scratch: Path | None = None) -> Iterator[Unfinished]:
    """Begin or go on with the run that becomes `out`.

    Vanishes when all is done, and when it is refused; is left to be gone on with when it is stopped from outside, the disk or
    memory is full, workers are lost, or something happens that nobody thought of. scratch: a folder for large files, other than the
    run's own. Raises BadRun for what another study, or another process at work, has left there; CannotWrite; OutOfMemory.
    """
    out = out.absolute()
    folder = out.with_name(out.name + ".part")
    with explained(out), _parents(folder):
        large = _large(out, scratch)
        with locked(folder):
            if out.is_dir() and any(out.iterdir()):
                _remove(folder)
                raise BadRun(f"{out.name} was written by another process meanwhile; the same command shows it")
            refuse_another(folder, identity)
            try:
                _write_whole(folder / IDENTITY, json.dumps(identity))
                large.mkdir(exist_ok=True)
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
    with explained(out), _parents(folder), locked(folder):
        if (folder / IDENTITY).exists():
            raise BadRun(f"{folder.name} holds a run that is not finished: finish it, delete it, or choose another --out")
        try:
            with Unfinished(folder, folder).becoming(out) as place:
                yield place
        finally:
            _remove(folder)


def remove_rests(out: Path, scratch: Path | None = None) -> None:
    """What a process that was killed between its last two steps has left beside a finished run."""
    folder = out.absolute().with_name(out.name + ".part")
    if folder.exists():
        with locked(folder):
            _remove(folder, _large(out.absolute(), scratch))


def _large(out: Path, scratch: Path | None) -> Path:
    """Where the large files of a run are: beside its others, or in the scratch folder, under a name that no other run there has."""
    if scratch is None:
        return out.with_name(f"{out.name}.part")
    place = hashlib.sha256(os.fsencode(out.parent.resolve() / out.name)).hexdigest()[:8]
    return scratch / f"{out.name}-{place}.part"


@contextmanager
def _parents(folder: Path) -> Iterator[None]:
    """The folders above it, taken away again where they were not there before and nothing is in them in the end."""
    missing = [parent for parent in folder.parents if not parent.exists()]
    folder.parent.mkdir(parents=True, exist_ok=True)
    try:
        yield
    finally:
        for parent in missing:
            with suppress(OSError):  # something is in it, or another process took it away
                parent.rmdir()


def _remove(*folders: Path) -> None:
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)


def _worth_keeping(folder: Path, failure: BaseException) -> bool:
    """Whether something is done already, and it was not refused: what we refuse, we refuse again."""
    done = (folder / PROGRESS).exists() or (folder / ANSWERS).exists()
    return done and (not isinstance(failure, MedlensError) or isinstance(failure, CannotWrite | OutOfMemory | WorkerLost))


def check_identity(folder: Path, identity: Mapping[str, str]) -> None:
    """Write down whose folder it is, or raise BadRun where it is another's."""
    refuse_another(folder, identity)
    _write_whole(folder / IDENTITY, json.dumps(identity))


def refuse_another(folder: Path, identity: Mapping[str, str]) -> None:
    """Raise BadRun for a folder that is another study's."""
    path = folder / IDENTITY
    try:
        found = dict(parse(path.read_text(encoding="utf-8"))) if path.exists() else identity
    except (ValueError, TypeError) as e:
        raise BadRun(
            f"{folder.name}/{IDENTITY} is damaged, so nobody knows whose work this is; choose another --out, or delete it"
        ) from e
    if other := [what for what in identity if found.get(what) != identity[what]]:
        raise BadRun(
            f"{folder.name} holds the beginning of another study ({' and '.join(other)} differ); choose another --out, or delete it"
        )


@contextmanager
def locked(folder: Path, wait: bool = False) -> Iterator[None]:
    """A folder (it is made) for one process at a time. Another one waits, or is refused (BadRun)."""
    with _lock(folder, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB)):
        yield


def _lock(folder: Path, how: int) -> IO[str]:
    """The lock, once it is ours. One that its last owner took away with the folder, after we opened it, would lock nothing."""
    while True:
        folder.mkdir(exist_ok=True)
        with suppress(FileNotFoundError):
            lock = (folder / LOCK).open("w")
            try:
                fcntl.flock(lock, how)
                if os.path.samestat(os.fstat(lock.fileno()), (folder / LOCK).stat()):
                    return lock
                lock.close()
            except BlockingIOError as e:
                lock.close()
                raise BadRun(f"another process is at work on {folder.name}; wait for it, or choose another --out") from e


def _rename(folder: Path, out: Path) -> None:
    try:
        folder.replace(out)
    except OSError as e:
        if e.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise
        raise BadRun(f"{out.name} was written by another process meanwhile; its run was kept, this one discarded") from e


def _write_whole(path: Path, content: str) -> None:
    """In place of what was there, or not at all."""
    fresh = path.with_name(f"{path.name}.new")
    write(fresh, content)
    fresh.replace(path)


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def explained(out: Path) -> Iterator[None]:
    """Errors of the file system as CannotWrite, and of memory as OutOfMemory, with what is left and what to do."""
    try:
        yield
    except OSError as e:
        why = "the disk is full" if e.errno in (errno.ENOSPC, errno.EDQUOT) else (e.strerror or str(e))
        raise CannotWrite(f"cannot write {out.name}: {why}; {_left(out)}") from e
    except (MemoryError, RuntimeError) as e:
        if isinstance(e, RuntimeError) and not any(words in str(e) for words in NO_MEMORY):
            raise
        raise OutOfMemory(f"memory ran out; {_left(out)}, with more memory or with --memory SIZE") from e


def _left(out: Path) -> str:
    part = out.with_name(out.name + ".part")
    if part.exists():
        return f"what is done stands in {part.name}: the same command goes on from there"
    return f"nothing was left behind in {os.fspath(out.parent)}"
