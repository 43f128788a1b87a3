"""The 3xCoder simulator on an event loop and thread of its own, for synchronous tests and for real clients."""

import asyncio
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from gateway.simulator.record import Record
from gateway.simulator.script import Behaviour
from gateway.simulator.server import Simulator

API_KEY = "sk-simulator-0123456789"


class SimulatorThread:
    """Everything here may be called from the test's thread.

    `record` has snapshots (`requests`, `totals`), `clear` and `wait_for`; see gateway.simulator.record.
    """

    def __init__(self, simulator: Simulator) -> None:
        self.simulator = simulator

    @property
    def base_url(self) -> str:
        """Ends in /v1."""
        return self.simulator.base_url

    @property
    def origin(self) -> str:
        return self.simulator.origin

    @property
    def port(self) -> int:
        return self.simulator.port

    @property
    def record(self) -> Record:
        return self.simulator.record

    def script(self, *behaviours: Behaviour | Mapping[str, object]) -> None:
        self.simulator.script(*behaviours)

    def start(self) -> None:
        """Listen, also after a `stop`: then on the same port, with the same record."""
        self._started = threading.Event()
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="simulator", daemon=True)
        self._thread.start()
        self._started.wait()
        if self._failure is not None:
            raise self._failure

    def stop(self) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(10)
        assert not self._thread.is_alive(), "the simulator does not end"

    def _run(self) -> None:
        asyncio.run(self._serve())

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._stop = asyncio.Event()
        try:
            await self.simulator.start()
        except OSError as exc:
            self._failure = exc
            return
        finally:
            self._started.set()
        await self._stop.wait()
        await self.simulator.close()


@contextmanager
def running_simulator(
    *,
    api_keys: tuple[str, ...] = (API_KEY,),
    latency: float = 0.0,
    keep_alive_timeout: float = 60.0,
    keep_raw: bool = False,
) -> Iterator[SimulatorThread]:
    """A simulator on a free loopback port, for as long as the block runs."""
    thread = SimulatorThread(
        Simulator(api_keys=api_keys, latency=latency, keep_alive_timeout=keep_alive_timeout, keep_raw=keep_raw)
    )
    thread.start()
    try:
        yield thread
    finally:
        thread.stop()
