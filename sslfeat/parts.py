"""The parts of a cache in the making: whose they are, what they hold, and how they become one file.

Each part is a complete cache of its own in the folder ``NAME.h5.parts`` beside the final one, so that whatever
was committed survives the death of the run that wrote it.
"""

import fcntl
import glob
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

from cache import CacheError, FeatureCache, FeatureSpec, SpecMismatchError, merge
from cache.schema import describe_differences


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
        On entering: where the folder can't be written, another process holds the parts, or the final file is no
        cache.
    SpecMismatchError
        On entering: where what is there was made under another spec; the message names the fields.
    """

    def __init__(self, cache_path: Path, spec: FeatureSpec, *, overwrite: bool = False) -> None:
        self.cache_path = cache_path
        self.spec = spec
        self.overwrite = overwrite
        self.directory = cache_path.with_name(cache_path.name + ".parts")
        self.set_aside: list[str] = []
        self._lock = -1

    def __enter__(self) -> Self:
        check_target(self.cache_path)
        self._take_lock()
        try:
            # What killed runs were writing; no one else writes here now.
            for folder, name in ((self.directory, "part-"), (self.cache_path.parent, self.cache_path.name)):
                for path in folder.glob(f".{glob.escape(name)}*.tmp"):
                    path.unlink()
            if self.overwrite:
                self._clear()
                self.cache_path.unlink(missing_ok=True)
            for path in self._committed():
                self._check_spec(path)
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
        numbers = [int(path.stem.removeprefix("part-")) for path in self._files()]
        return self.directory / f"part-{max(numbers, default=0) + 1:08d}.h5"

    def finish(self, software: dict[str, str]) -> bool:
        """Join the parts into the final file; return whether there was anything to join."""
        if not self._files():
            return False
        merge(self.cache_path, self._committed(), software=software, overwrite=True)
        self._clear()
        return True

    def _files(self) -> list[Path]:
        return sorted(self.directory.glob("part-*.h5"))

    def _committed(self) -> list[Path]:
        final = [self.cache_path] if self.cache_path.exists() else []
        return final + self._files()

    def _clear(self) -> None:
        for path in self._files():
            path.unlink()

    def _check_spec(self, path: Path) -> None:
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
        lock = self.directory / "lock"
        while self._lock < 0:
            try:
                self.directory.mkdir(exist_ok=True)
                descriptor = os.open(lock, os.O_RDWR | os.O_CREAT, 0o644)
            except OSError as error:
                msg = f"{self.cache_path}: can't be written ({error.strerror}: {error.filename})."
                raise CacheError(msg) from error
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                holder = os.read(descriptor, 200).decode(errors="replace").strip() or "another process"
                os.close(descriptor)
                msg = f"{self.cache_path}: being written by {holder}; wait for it, or choose another name."
                raise CacheError(msg) from error
            # Its last holder may have removed the file between our opening and our locking it.
            if lock.exists() and lock.stat().st_ino == os.fstat(descriptor).st_ino:
                self._lock = descriptor
            else:
                os.close(descriptor)
        os.ftruncate(self._lock, 0)
        os.write(self._lock, f"process {os.getpid()} on {socket.gethostname()}".encode())

    def _release(self) -> None:
        """Let go of the lock, and of the folder where nothing is left in it."""
        if self._lock < 0:
            return
        if {path.name for path in self.directory.iterdir()} == {"lock"}:
            (self.directory / "lock").unlink()
            self.directory.rmdir()
        os.close(self._lock)
        self._lock = -1


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
