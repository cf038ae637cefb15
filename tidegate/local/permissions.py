"""Who may read what Tidegate keeps on this machine: its own user, and nobody else.

A volume on OpenShift belongs to an arbitrary user of group 0, or to the pod's `fsGroup`; there the group keeps its access,
because the next pod may be another user.
"""

import os
import stat
from collections.abc import Iterator
from pathlib import Path

from sqlalchemy import make_url

from tidegate.config.settings import Settings

STATE = Path(".tidegate")
_OTHERS, _EVERYBODY_ELSE = 0o007, 0o077
_MAX_FILES = 100_000
"""Files that are looked at below one folder."""


def keep_private() -> None:
    """Makes whatever this process and its children create readable by its user only."""
    os.umask(_OTHERS if is_shared(os.getegid(), os.geteuid(), os.getegid()) else _EVERYBODY_ELSE)


def tighten(settings: Settings) -> list[Path]:
    """Takes away what others may do with what is there already; what was changed. Files of other users are left alone."""
    changed = []
    for path, excess in _open_to_others(settings):
        try:
            path.chmod(stat.S_IMODE(path.stat().st_mode) & ~excess)
        except OSError:
            continue  # deleted meanwhile, or a file system that knows no modes
        changed.append(path)
    return changed


def readable_by_others(settings: Settings) -> list[Path]:
    """What others may read or change, outermost first; not what lies in a folder of the installation's that is closed."""
    here = Path.cwd()
    found = [path.absolute() for path, _ in _open_to_others(settings)]
    return [
        path
        for path in found
        if all(_is_enterable(parent) for parent in path.parents if parent != here and parent.is_relative_to(here))
    ]


def is_shared(file_group: int, user: int, group: int) -> bool:
    """Whether a group's access is meant: it is not the process's own, or it is the group of an arbitrary user."""
    return file_group != group or (group == 0 and user != 0)


def _open_to_others(settings: Settings) -> Iterator[tuple[Path, int]]:
    """Every path of ours with the permissions that it has too many."""
    user, group = os.geteuid(), os.getegid()
    for path in _kept(settings):
        try:
            found = path.lstat()
        except OSError:
            continue
        if found.st_uid != user or not stat.S_ISREG(found.st_mode) | stat.S_ISDIR(found.st_mode):
            continue
        excess = found.st_mode & (_OTHERS if is_shared(found.st_gid, user, group) else _EVERYBODY_ELSE)
        if excess:
            yield path, excess


def _kept(settings: Settings) -> Iterator[Path]:
    """What holds data or secrets: the state folder, the database with its helpers, the journal, documents, keys."""
    yield STATE
    url = make_url(settings.store.url)
    if url.get_backend_name() == "sqlite" and url.database:
        yield from (Path(url.database + suffix) for suffix in ("", "-wal", "-shm", "-journal"))
    yield settings.auth.key_pepper_file
    yield settings.identity.signing_key_file
    yield settings.identity.public_keys_file
    for folder in (
        STATE / "secrets",
        STATE / "run",
        STATE / "logs",
        settings.journal.directory,
        settings.knowledge.directory,
    ):
        yield from _below(folder)


def _below(folder: Path) -> Iterator[Path]:
    yield folder
    left = _MAX_FILES
    for parent, folders, files in os.walk(folder):
        for name in (*folders, *files):
            yield Path(parent, name)
            left -= 1
            if not left:
                return


def _is_enterable(folder: Path) -> bool:
    try:
        found = folder.stat()
    except OSError:
        return True
    return bool(found.st_mode & 0o001) or (
        bool(found.st_mode & 0o010) and not is_shared(found.st_gid, os.geteuid(), os.getegid())
    )
