"""``python -m tests.fuzz.guided MODULE:FUNCTION COUNTS [libFuzzer's options and folders]``: one reader under atheris.

Its own process, for libFuzzer ends it as it likes. COUNTS: a file of 16 bytes in which two numbers, of bodies tried
and taken, are kept for whoever started this. An assertion that fails, any other error than the gateway's own, or ten
seconds on one body end it with another status than 0 and leave the body behind.
"""

import importlib
import mmap
import struct
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

COUNTS = struct.Struct("<QQ")


def main(arguments: Sequence[str]) -> None:
    reader, counts, *options = arguments
    atheris: Any = importlib.import_module("atheris")  # carries no types, and is found by PYTHONPATH alone
    with atheris.instrument_imports(include=["gateway.core", "multipart"]):
        module, name = reader.split(":")
        read = getattr(importlib.import_module(module), name)
    with Path(counts).open("r+b") as file:
        shared = mmap.mmap(file.fileno(), COUNTS.size)
    tried = taken = 0

    def one(data: bytes) -> None:
        nonlocal tried, taken
        tried += 1
        taken += read(data)
        COUNTS.pack_into(shared, 0, tried, taken)

    atheris.Setup([sys.argv[0], *options], one)
    atheris.Fuzz()


if __name__ == "__main__":
    main(sys.argv[1:])
