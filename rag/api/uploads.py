"""How much of uploads is held in memory, by all projects together and by each."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from tidegate.errors import Overloaded, RateLimited
from tidegate.store.documents import Owner

_FILES_OF_PROJECT = 6
_LARGEST_OF_PROJECT, _LARGEST_IN_ALL = 4, 16
"""In files of the largest size."""


class UploadBudget:
    """Admits uploads by their declared size."""

    def __init__(self, max_file_bytes: int) -> None:
        self._max_project_bytes = _LARGEST_OF_PROJECT * max_file_bytes
        self._max_bytes = _LARGEST_IN_ALL * max_file_bytes
        self._files: Counter[Owner] = Counter()
        self._bytes: Counter[Owner] = Counter()

    @contextmanager
    def admit(self, owner: Owner, size_bytes: int) -> Iterator[None]:
        """Hold the bytes of one upload.

        Raises:
            RateLimited: the project has too much in memory.
            Overloaded: all projects together have.
        """
        if self._files[owner] >= _FILES_OF_PROJECT or self._bytes[owner] + size_bytes > self._max_project_bytes:
            raise RateLimited("Too many files of this project are being read. Send fewer at once.", retry_after_s=1)
        if self._bytes.total() + size_bytes > self._max_bytes:
            raise Overloaded("Too many files are being read. Try again.")
        self._files[owner] += 1
        self._bytes[owner] += size_bytes
        try:
            yield
        finally:
            self._files[owner] -= 1
            self._bytes[owner] -= size_bytes
            if not self._files[owner]:
                del self._files[owner], self._bytes[owner]
