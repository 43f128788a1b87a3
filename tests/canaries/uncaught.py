"""Errors that nobody catches, on a worker's event loop and beside it, each with a word that nobody may write.

python -m tests.canaries.uncaught WORD
"""

import asyncio
import sys
import threading

from gateway import logs


class Finalized:
    def __init__(self, word: str) -> None:
        self._word = word

    def __del__(self) -> None:
        raise KeyError(self._word)


async def fails(word: str) -> None:
    raise OSError(word)


async def main(word: str) -> None:
    loop = asyncio.get_running_loop()
    logs.keep_words_in(loop)
    loop.call_exception_handler({"message": f"odd\nfuture: {word}"})
    loop.call_soon(int, word)
    loop.create_task(fails(word))  # noqa: RUF006  nobody waits for it
    await asyncio.sleep(0.01)
    thread = threading.Thread(target=float, args=(word,), name=word)
    thread.start()
    thread.join()
    Finalized(word)


if __name__ == "__main__":
    logs.configure()
    asyncio.run(main(sys.argv[1]))
