"""The parts of a cache in the making: whose they are, what they hold, and how they become one file.

Each part is a complete cache of its own in the folder ``NAME.h5.parts`` beside the final one, so that whatever
was committed survives the death of the run that wrote it. Where several processes extract one corpus, each writes
a cache, with parts of its own, in the folder ``NAME.h5.shards``; what it committed becomes parts of the whole.
"""

import contextlib
import fcntl
import functools
import os
import re
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar

from cache import CacheError, FeatureCache, FeatureSpec, SpecMismatchError, merge
from cache.schema import describe_differences

# Workers end within a batch after the run that started them is killed.
_ADOPTION_PATIENCE = 60.0

Result = TypeVar("Result")


class HeldError(CacheError):
    """Parts that another process holds."""


class Parts:
    """The committed state of one extraction; held by one process at a time.

    Parameters
    ----------
    cache_path : Path
        The final file.
    spec : FeatureSpec
        What every part, and the final file where there is one, must be made under.
    overwrite : bool
        Whether what is there is thrown away first.

    Raises
    ------
    CacheError
        On entering: where the folder can't be written or is a link, or the final file is no cache.
    HeldError
        On entering: where another process holds the parts, or goes on writing a shard.
    SpecMismatchError
        On entering: where what is there was made under another spec; the message names the fields.
    """

    def __init__(self, cache_path: Path, spec: FeatureSpec, *, overwrite: bool = False) -> None:
        self.cache_path = cache_path
        self.spec = spec
        self.overwrite = overwrite
        self.directory = cache_path.with_name(cache_path.name + ".parts")
        self.shards = cache_path.with_name(cache_path.name + ".shards")
        self.set_aside: list[str] = []
        self._lock = -1

    def __enter__(self) -> Self:
        check_target(self.cache_path)
        with self._explained():
            try:
                self._take_lock()
                self._sweep()
                self.adopt(overwrite=self.overwrite)
                for path in self._committed():
                    self._check(path)
            except BaseException:
                self._release()
                raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._release()

    def caches(self) -> Iterator[FeatureCache]:
        """Yield what is committed, oldest first: the final file of an earlier run, then the parts."""
        for path in self._committed():
            with FeatureCache(path) as cache:
                yield cache

    def next_path(self) -> Path:
        """Return the name of the next part, after all the others in order."""
        found = (re.fullmatch(r"part-(\d+)", path.stem, re.ASCII) for path in self.directory.iterdir())
        numbers = [int(match[1]) for match in found if match]
        return self.directory / f"part-{max(numbers, default=0) + 1:08d}.h5"

    def adopt(self, *, overwrite: bool = False) -> None:
        """Make parts of what is committed in the folder of shards, or throw it away; the folder goes where it is empty."""
        names = {path.name.removesuffix(".parts") for path in self.shards.glob("[!.]*")}
        for name in sorted(name for name in names if name.endswith(".h5")):
            when_free(
                functools.partial(self._adopt, self.shards / name, overwrite=overwrite),
                patience=_ADOPTION_PATIENCE,
            )
        with contextlib.suppress(OSError):
            self.shards.rmdir()

    def _adopt(self, path: Path, *, overwrite: bool) -> None:
        shard = Parts(path, self.spec, overwrite=overwrite)
        shard._take_lock()
        try:
            shard._sweep()
            for committed in shard._committed():
                committed.rename(self.next_path())
        finally:
            shard._release()

    def make_shards(self) -> Path:
        """Return the folder that workers write their caches to, made where it is not there; absolute."""
        with self._explained():
            self.shards.mkdir(exist_ok=True)
        return self.shards.absolute()

    def finish(self, software: dict[str, str]) -> bool:
        """Join the parts into the final file; return whether there was anything to join."""
        if not self._files():
            return False
        merge(self.cache_path, self._committed(), complete=True, software=software, overwrite=True)
        with self._explained():
            self._clear()
        return True

    def _files(self) -> list[Path]:
        return sorted(self.directory.glob("part-*.h5"))

    def _committed(self) -> list[Path]:
        final = [self.cache_path] if self.cache_path.exists() else []
        return final + self._files()

    def _clear(self) -> None:
        # Oldest first: what is left after a kill is still newer than the final file.
        for path in self._files():
            path.unlink()

    def _sweep(self) -> None:
        """Remove what killed runs were writing, and all the rest where that is asked."""
        name = rf"\.(part-\d+\.h5|{re.escape(self.cache_path.name)})\.\d+-[0-9a-f]+\.tmp"
        for folder in (self.directory, self.cache_path.parent):
            for path in folder.glob(".*.tmp"):
                if re.fullmatch(name, path.name):
                    path.unlink()
        if self.overwrite:
            self._clear()
            for path in self.directory.glob("*.damaged"):
                path.unlink()
            self.cache_path.unlink(missing_ok=True)

    def _check(self, path: Path) -> None:
        spec = self.spec
        try:
            with FeatureCache(path) as cache:
                spec = cache.spec
                damage = [] if path == self.cache_path else cache.verify()
        except CacheError as error:
            if path == self.cache_path:
                msg = f"{error} To replace it, overwrite it."
                raise CacheError(msg) from error
            damage = [str(error)]
        if damage:
            # Its utterances are done again; the file stays for whoever wants to know what happened.
            path.rename(path.with_suffix(".damaged"))
            self.set_aside.append(damage[0])
        elif differences := spec.differences(self.spec):
            told = describe_differences(differences, mine="there", theirs="asked")
            msg = f"{path}: made under another spec: {told}. Choose another name, or overwrite it."
            raise SpecMismatchError(msg)

    def _take_lock(self) -> None:
        # Unfinished work may come from a stranger, and files that links lead to are not his to change.
        for folder in (self.directory, self.shards):
            if folder.is_symlink():
                msg = f"{folder}: a link, where a folder of unfinished work is kept; remove it."
                raise CacheError(msg)
        patience = 1000
        while self._lock < 0:
            try:
                self.directory.mkdir(exist_ok=True)
                flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW
                descriptor = os.open(self.directory / "lock", flags, 0o644)
            except (FileExistsError, FileNotFoundError):
                # Its last holder may be removing the folder at this moment; anything else stays as it is.
                patience -= 1
                if not patience:
                    raise
                continue
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                holder = os.read(descriptor, 200).decode(errors="replace").strip() or "another process"
                os.close(descriptor)
                msg = f"{self.cache_path}: being written by {holder}; wait for it, or choose another name."
                raise HeldError(msg) from error
            # Or it has removed the file between our opening and our locking it.
            if os.fstat(descriptor).st_nlink:
                self._lock = descriptor
            else:
                os.close(descriptor)
        os.ftruncate(self._lock, 0)
        os.write(self._lock, f"process {os.getpid()} on {socket.gethostname()}".encode())

    def _release(self) -> None:
        """Let go of the lock, and of the folder where nothing else is in it."""
        if self._lock < 0:
            return
        # Another process may be just about to take it, or the disk may be read-only by now: then they stay.
        with contextlib.suppress(OSError):
            if {path.name for path in self.directory.iterdir()} == {"lock"}:
                (self.directory / "lock").unlink()
                self.directory.rmdir()
        os.close(self._lock)
        self._lock = -1

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            where = f": {error.filename}" if error.filename else ""
            msg = f"{self.cache_path}: can't be written ({error.strerror}{where})."
            raise CacheError(msg) from error


def when_free(attempt: Callable[[], Result], *, patience: float) -> Result:
    """Return what ``attempt`` returns, which is tried again while another process holds the parts that it needs.

    Raises
    ------
    HeldError
        Where they are held for longer than ``patience``, in seconds.
    """
    deadline = time.monotonic() + patience
    while True:
        try:
            return attempt()
        except HeldError:
            if time.monotonic() > deadline:
                raise
        time.sleep(0.2)


def check_target(cache_path: Path) -> None:
    """Raise where no cache can be written under this name.

    Raises
    ------
    CacheError
        Where the folder is not there, or the name is a folder's.
    """
    if not cache_path.parent.is_dir():
        msg = f"{cache_path}: the folder {cache_path.parent} is not there; make it first."
        raise CacheError(msg)
    if cache_path.is_dir():
        msg = f"{cache_path}: a folder has this name; give a file's, as emodb.h5."
        raise CacheError(msg)
