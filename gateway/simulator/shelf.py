"""Bytes that are kept for a while: the latest ones, within a count and a total size."""

from collections import OrderedDict


class Shelf:
    """The latest `max_items` blobs, fewer if they come to more than `max_bytes`. Not safe across threads."""

    def __init__(self, *, max_items: int, max_bytes: int) -> None:
        self._max_items = max_items
        self._max_bytes = max_bytes
        self._blobs: OrderedDict[str, bytes] = OrderedDict()
        self._size = 0

    def put(self, key: str, blob: bytes) -> None:
        self._blobs[key] = blob
        self._size += len(blob)
        while self._blobs and (len(self._blobs) > self._max_items or self._size > self._max_bytes):
            _, oldest = self._blobs.popitem(last=False)
            self._size -= len(oldest)

    def get(self, key: str) -> bytes | None:
        return self._blobs.get(key)

    def clear(self) -> None:
        self._blobs.clear()
        self._size = 0
