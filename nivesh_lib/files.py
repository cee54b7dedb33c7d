"""Files: locks, atomic writes, replacing a folder, checksums, equal files stored once.

Only this module does these. Files may be hard links of each other (`link_equal`), so nothing may
be written in place: write to another name and rename, as `atomic_path` and `write_folder` do.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
import re
import shutil
import stat
import tempfile
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TextIO

from nivesh_lib.errors import DataError

# As `partial_path` has it, and what SQLite keeps beside a database of that name.
_PARTIAL = re.compile(r"\.(?P<name>.+)\.(?P<process>\d+)\.partial(-journal|-wal|-shm)?")
_Inode = tuple[int, int]  # device and number: equal for links to one file


def read_file(path: Path) -> bytes:
    """Return the bytes of a regular file; a device or a pipe could be read for ever.

    Raises
    ------
    OSError
        It is missing, cannot be read, or is no regular file.
    """
    # Without the flag, opening a pipe that nobody writes to waits for ever.
    with os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb") as file:
        check_regular(file.fileno(), path)
        return file.read()


def check_regular(number: int, path: Path) -> None:
    """Raise OSError where an open file is a device, a pipe or a folder."""
    if not stat.S_ISREG(os.fstat(number).st_mode):
        raise OSError(errno.EINVAL, "it is no regular file", str(path))


def sha256_file(path: Path) -> str:
    """Return the SHA-256 of a file's bytes, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextlib.contextmanager
def locked(place: Path, *, shared: bool = False, wait: bool = True) -> Iterator[None]:
    """Hold an advisory lock on a file or folder that exists.

    The lock leaves no file behind and ends with the process, however that ends. Holders of a
    ``shared`` lock do not exclude each other.

    Raises
    ------
    BlockingIOError
        Another process holds it, and ``wait`` is off.
    OSError
        There is no such file or folder, or it cannot be read.
    """
    number = os.open(place, os.O_RDONLY | os.O_NONBLOCK)  # opening a pipe does not wait
    try:
        kind = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
        fcntl.flock(number, kind if wait else kind | fcntl.LOCK_NB)
        yield
    finally:
        os.close(number)


@contextlib.contextmanager
def locked_folder(folder: Path) -> Iterator[None]:
    """Hold an exclusive lock on a folder, which is made when it is missing.

    Raises
    ------
    DataError
        The folder cannot be made or read.
    """
    with contextlib.ExitStack() as lock:
        with write_errors(folder):
            folder.mkdir(parents=True, exist_ok=True)
            lock.enter_context(locked(folder))
        yield


@contextlib.contextmanager
def write_errors(target: Path) -> Iterator[None]:
    """Raise DataError, naming ``target``, for an OSError within the context."""
    try:
        yield
    except OSError as error:
        why, place = error.strerror, target
        if isinstance(error, shutil.Error):  # several files of a folder, each with its why
            why = error.args[0][0][-1]
        while not place.exists():
            place = place.parent
        if isinstance(error, FileExistsError | NotADirectoryError) and place.is_file():
            why = f"{place} is a file, and a folder is needed there. Move it away"
        raise DataError(f"{target} cannot be written: {why}.") from error


def partial_path(target: Path) -> Path:
    """Return where this process writes what is going to be ``target``; see `remove_abandoned`."""
    return target.with_name(f".{target.name}.{os.getpid()}.partial")


def remove_abandoned(
    folder: Path, *, name: str = "", deep: bool = True, anyone: bool = False
) -> None:
    """Remove unfinished files and folders that processes left which are dead by now.

    Parameters
    ----------
    name : str
        Only those that were to become this file; by default all.
    deep : bool
        Look into the folders below too.
    anyone : bool
        Whether the process is dead or not: its number may be another's by now.
    """
    found = folder.rglob(".*.partial*") if deep else folder.glob(".*.partial*")
    for path in list(found):
        made = _PARTIAL.fullmatch(path.name)
        wanted = made is not None and (not name or f"{made['name']}.".startswith(f"{name}."))
        if made is None or not wanted or (not anyone and _is_running(int(made["process"]))):
            continue
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            with contextlib.suppress(OSError):
                path.unlink()


def _is_running(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):  # another user's; no number of a process
        pass
    return True


@contextlib.contextmanager
def atomic_path(target: Path) -> Iterator[Path]:
    """Yield a path beside ``target`` to write to; it is renamed to ``target`` when the block ends.

    Where the block raises, what it wrote is removed and ``target`` stays as it was. Its folder is
    made when it is missing.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = partial_path(target)
    try:
        yield partial
        partial.replace(target)
    finally:
        partial.unlink(missing_ok=True)


def write_text(target: Path, text: str) -> None:
    """Write a UTF-8 file atomically; half a surrogate pair becomes a question mark."""
    with atomic_path(target) as partial:
        partial.write_text(text, encoding="utf-8", errors="replace")


@contextlib.contextmanager
def new_file(target: Path, *, replace: bool = False) -> Iterator[TextIO]:
    """Open a UTF-8 text file that appears under its name when the block ends, synced to disk.

    Where the block raises, nothing appears. A file that another process made meanwhile is kept.

    Raises
    ------
    DataError
        There is such a file and ``replace`` is off, its folder cannot be written, or the disk is
        full.
    """
    target = _writable(target, replace=replace)
    remove_abandoned(target.parent, name=target.name, deep=False)
    partial = partial_path(target)
    with write_errors(target):
        file = partial.open("w", encoding="utf-8")
    try:
        with file:
            yield file
        sync(partial)
        if replace:
            partial.replace(target)
        else:
            _put_new(partial, target)
        sync(target.parent)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):  # which names no file
            raise DataError(f"{target} cannot be written: {error.strerror}.") from error
        raise
    finally:
        partial.unlink(missing_ok=True)


def _writable(target: Path, *, replace: bool) -> Path:
    """Return the path that a rename would really replace, or raise DataError."""
    if target.is_symlink():
        if not target.exists():
            raise DataError(f"{target} is a link that leads nowhere; name another file.")
        target = target.resolve()  # a rename would put a file in the place of the link
    if target.exists() and not target.is_file():  # a rename would put a file in its place
        raise DataError(f"{target} is no regular file; name another one.")
    if target.exists() and not replace:
        raise DataError(f"{target} exists; name another file or add --overwrite.")
    return target


def _put_new(partial: Path, target: Path) -> None:
    """Give a file its name, unless another has taken it meanwhile; then nothing is lost."""
    try:
        os.link(partial, target)
    except FileExistsError:
        kept = target.with_name(f"{target.name}.{os.getpid()}")
        partial.replace(kept)
        raise DataError(f"{target} appeared meanwhile and stays; this went to {kept}.") from None
    except OSError:  # a file system without links
        partial.replace(target)


def write_folder(target: Path, files: Mapping[str, bytes]) -> None:
    """Make a folder of these files: written beside it, synced, then renamed.

    A folder that is there is replaced. The caller holds the lock of the parent folder.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    complete = Path(tempfile.mkdtemp(prefix=f".{target.name}.new-", dir=target.parent))
    try:
        complete.chmod(0o755)
        for name, raw in files.items():
            (complete / name).write_bytes(raw)
            sync(complete / name)
        sync(complete)
        replace_folder(complete, target)
    finally:
        shutil.rmtree(complete, ignore_errors=True)


def replace_folder(complete: Path, target: Path) -> None:
    """Rename a complete folder to ``target``; an older one comes back where that fails.

    Both lie in the same parent folder, whose lock the caller holds.
    """
    older = _aside(target)
    _put_back(target)
    if target.exists():
        target.rename(older)
    try:
        complete.rename(target)
    except BaseException:
        if older.exists():
            older.rename(target)
        raise
    shutil.rmtree(older, ignore_errors=True)
    sync(target.parent)


def restore_folder(target: Path) -> None:
    """Undo what a process that was killed in `replace_folder` left. The caller holds the lock."""
    _put_back(target)
    for new in target.parent.glob(f".{target.name}.new-*"):
        shutil.rmtree(new, ignore_errors=True)


def restore_folders(parent: Path) -> None:
    """Call `restore_folder` for every folder in ``parent``. The caller holds its lock."""
    for path in [*parent.glob(".*.old"), *parent.glob(".*.new-*")]:
        name = path.name.removeprefix(".").removesuffix(".old")
        restore_folder(parent / re.sub(r"\.new-[^.]*$", "", name))


def _put_back(target: Path) -> None:
    older = _aside(target)
    if older.exists() and not target.exists():
        older.rename(target)
    shutil.rmtree(older, ignore_errors=True)


def _aside(target: Path) -> Path:
    """Return where `replace_folder` keeps the older folder between its two renames."""
    return target.with_name(f".{target.name}.old")


def link_equal(files: Iterable[Path], among: Iterable[Path] = ()) -> None:
    """Store equal files once: make each a hard link to an equal one before it, or in ``among``.

    Those in ``among`` are not replaced, nor those that are links already. Where the disk has no
    links, or the two lie on different ones, both stay as they are. A link has the mode and time of
    the file that is kept.
    """
    mine, sizes, alone = set(files), defaultdict[int, list[Path]](list), set()
    for path in sorted({*mine, *among}):
        with contextlib.suppress(FileNotFoundError):
            state = path.stat()
            sizes[state.st_size].append(path)
            if path in mine and state.st_nlink == 1:
                alone.add(path)
    for size, alike in sizes.items():
        if size and not alone.isdisjoint(alike) and len(alike) > 1:
            _link_alike(sorted(alike, key=alone.__contains__), alone)


def _link_alike(paths: Iterable[Path], alone: Collection[Path]) -> None:
    """Link those of the files, all of one size, that have the same content as an earlier one."""
    kept: dict[str, tuple[Path, _Inode]] = {}  # digest -> a file and where it is on the disk
    digests: dict[_Inode, str] = {}
    for path in paths:
        with contextlib.suppress(OSError):
            inode = _inode(path.stat())
            digest = digests.get(inode) or sha256_file(path)
            digests[inode] = digest
            first, its_inode = kept.setdefault(digest, (path, inode))
            if inode != its_inode and path in alone:
                _link(first, its_inode, path)


def _link(source: Path, inode: _Inode, target: Path) -> None:
    """Put a link to ``source`` in the place of ``target``, unless ``source`` is another by now."""
    with atomic_path(target) as partial:
        os.link(source, partial)
        if _inode(partial.stat()) != inode:
            raise FileNotFoundError(source)


def _inode(state: os.stat_result) -> _Inode:
    return state.st_dev, state.st_ino


def tree_files(*folders: Path) -> list[Path]:
    """Return all regular files below folders, sorted; a folder that is not there has none."""
    found = (path for folder in folders for path in folder.rglob("*"))
    return sorted(path for path in found if path.is_file() and not path.is_symlink())


def stored_bytes(files: Iterable[Path]) -> int:
    """Return the bytes that files take on the disk, links to one file counted once."""
    sizes = {_inode(state): state.st_size for state in (path.stat() for path in files)}
    return sum(sizes.values())


def freed_bytes(files: Iterable[Path]) -> int:
    """Return the bytes that removing these files frees: those without a link elsewhere."""
    states = [path.stat() for path in files]
    removed = Counter(map(_inode, states))
    last = {_inode(s): s.st_size for s in states if removed[_inode(s)] == s.st_nlink}
    return sum(last.values())


def append_line(path: Path, line: bytes) -> None:
    """Append a line and sync it, after any line that a killed process left without its end.

    Several processes may append at once. A line that does not fit on the disk is taken back.

    Raises
    ------
    OSError
        The file cannot be written; nothing of the line is in it then.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+b", buffering=0) as file, locked(path):
        end = file.seek(0, os.SEEK_END)
        file.seek(max(end - 1, 0))
        raw = (b"" if file.read(1) in (b"", b"\n") else b"\n") + line + b"\n"
        try:
            if file.write(raw) != len(raw):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
            os.fsync(file.fileno())
            if not end:  # perhaps a new file, whose name must be on the disk too
                sync(path.parent)
        except OSError:
            with contextlib.suppress(OSError):  # of the two errors, the first says why
                file.truncate(end)
            raise


def sync_folder(folder: Path) -> None:
    """Flush all that is below a folder to the disk."""
    for path in [*folder.rglob("*"), folder]:
        sync(path)


def sync(path: Path) -> None:
    """Flush a file's bytes, or a folder's list of names, to the disk."""
    number = os.open(path, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)
