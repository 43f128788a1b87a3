"""`gateway doctor`: whether all that the gateway needs is there, on this host and now. It pays and changes nothing."""

import asyncio
import http.client
import json
import os
import resource
import socket
import stat
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from gateway.cli import store
from gateway.cli.keys import listing
from gateway.cli.options import ConfigOption, JsonOption, check_known, config_path, loaded

if TYPE_CHECKING:
    from gateway.config.document import Document
    from gateway.core.catalog import Settings
    from gateway.ledger.redis import RedisLedger

MOST_APART = 5.0  #: seconds that this host's clock and the store's may differ before somebody should look
SOON_ANSWERED = 2.0  #: seconds that whoever holds a port gets to say who it is

State = Literal["ok", "warning", "wrong"]

_STYLES = {"ok": "green", "warning": "yellow", "wrong": "red"}


@dataclass(frozen=True, slots=True)
class Finding:
    """What was looked at, how it is, and what there is to say of it."""

    about: str
    state: State
    says: str


def doctor(
    team: Annotated[
        str | None, typer.Option(metavar="T", help="Whose curl is printed. Default: the first.", show_default=False)
    ] = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Look at all that the gateway needs: config, secrets, store, upstream, clock, permissions, ports, file limit.

    The upstream is only connected to: no order is sent and nothing is paid for. Exit 1: something is wrong.

    Example: gateway doctor --json
    """
    from gateway.config.compile import compile_settings

    document = loaded(config_path(config))
    settings = compile_settings(document, None)
    teams = [*settings.teams]
    if team is not None:
        check_known("--team", team, teams)
    found = []
    for finding in findings(document, settings):
        found.append(finding)
        if not as_json:  # each at once: some take a second
            _print(finding)
    curl = _curl(settings) if teams else ""
    if as_json:
        typer.echo(json.dumps({"findings": [asdict(finding) for finding in found], "curl": curl}, indent=2))
    elif teams:
        typer.echo(f"\nAn order of team {team or teams[0]}, with a key of its own for KEY:\n{curl}")
    if any(finding.state == "wrong" for finding in found):
        raise typer.Exit(1)


def findings(document: "Document", settings: "Settings") -> Iterator[Finding]:
    yield from _config(document)
    yield from _secrets(document)
    yield from _keys(document)
    yield from _permissions(document, settings)
    yield from _store(document, settings)
    yield _upstream(settings)
    for name, (host, port) in (("public", settings.listen.public), ("admin", settings.listen.admin)):
        yield _port(f"port {name}", host, port)
    yield _files(settings)


def _config(document: "Document") -> Iterator[Finding]:
    warnings = document.warnings()
    for problem in warnings:
        yield Finding("config", "warning", str(problem))
    if not warnings:
        yield Finding("config", "ok", f"{document.path}, hash {document.hash}")


def _secrets(document: "Document") -> Iterator[Finding]:
    from gateway.config.compile import compile_settings
    from gateway.config.problems import ConfigErrors

    try:
        compile_settings(document, os.environ)
    except ConfigErrors as errors:
        for problem in errors.problems:
            yield Finding("secrets", "wrong", str(problem))
    else:
        yield Finding("secrets", "ok", "all can be read by this user, in this environment")


def _keys(document: "Document") -> Iterator[Finding]:
    """Those that have ended are warnings of the config's."""
    listed = listing(document, now=time.time())
    ending = [key for key in listed if key.state == "expiring"]
    for key in ending:
        yield Finding("keys", "warning", f"key {key.id} of team {key.team} ends {key.expires_at}")
    if not ending:
        yield Finding("keys", "ok", f"{len(listed)}, none ends within 14 days")


def _permissions(document: "Document", settings: "Settings") -> Iterator[Finding]:
    mode = document.path.stat().st_mode
    if mode & (stat.S_IWOTH | stat.S_IWGRP):
        who = "every user of this host" if mode & stat.S_IWOTH else "its whole group"
        yield Finding("permissions", "warning", f"{who} can change {document.path}, and so keys and quotas")
    else:
        yield Finding("permissions", "ok", f"{document.path} can be changed by its owner alone")
    if settings.store.kind == "embedded":
        yield _data_dir(Path(settings.store.data_dir))


def _data_dir(folder: Path) -> Finding:
    if not folder.exists():
        above = next(parent for parent in folder.parents if parent.exists())
        if not os.access(above, os.W_OK | os.X_OK):
            return Finding("data_dir", "wrong", f"{folder} is not there, and this user cannot make it in {above}")
        return Finding("data_dir", "ok", f"{folder} is not there yet; the gateway makes it")
    if not folder.is_dir() or not os.access(folder, os.R_OK | os.W_OK | os.X_OK):
        return Finding("data_dir", "wrong", f"{folder} is no directory that this user can write to")
    if folder.stat().st_mode & stat.S_IWOTH:
        return Finding("data_dir", "wrong", f"every user of this host can write to {folder}; chmod o-w it")
    return Finding("data_dir", "ok", f"{folder} can be written to by this user")


def _store(document: "Document", settings: "Settings") -> Iterator[Finding]:
    from gateway.ledger.valkey import EmbeddedStoreError, find_server, find_socket

    if settings.store.kind == "embedded" and find_socket(Path(settings.store.data_dir)) is None:
        try:
            yield Finding("store", "ok", f"does not run; the gateway will start {find_server()}")
        except EmbeddedStoreError as error:
            yield Finding("store", "wrong", str(error))
        return

    rules = [rule for team in settings.teams.values() for rule in team.rules] + list(settings.organization)

    async def work(ledger: "RedisLedger") -> Iterator[Finding]:
        began = time.perf_counter()
        about = await ledger.about()
        took = time.perf_counter() - began
        await ledger.states(rules)
        return _of_store(about, took, ledger.now() - time.time(), len(rules))

    try:
        yield from store.reach(document, work)
    except store.Unreachable as error:
        yield Finding("store", "wrong", str(error))
    else:
        yield from _of_address(document)


def _of_address(document: "Document") -> Iterator[Finding]:
    from gateway.config.compile import compile_store
    from gateway.ledger.servers import is_open

    compiled = compile_store(document, os.environ)
    if is_open(compiled, compiled.url.reveal() if compiled.url is not None else None):
        words = "by its address it asks for no password: whoever reaches it can change what every team has used"
        yield Finding("store", "warning", words)


def _of_store(about: dict[str, str], took: float, apart: float, rules: int) -> Iterator[Finding]:
    """apart: seconds that the store's clock is ahead of ours."""
    name, version = "Redis", about.get("redis_version", "of an untold version")
    if "valkey_version" in about:
        name, version = "Valkey", about["valkey_version"]
    kept = "with an append-only file" if about.get("aof_enabled") == "1" else "without an append-only file"
    policy = about.get("maxmemory_policy", "untold")
    yield Finding(
        "store",
        "ok" if about.get("aof_enabled") == "1" else "warning",
        f"{name} {version}, {kept}, maxmemory-policy {policy}; answered in {took * 1000:.0f} ms, "
        f"and its scripts run: {rules} rules read",
    )
    if (lost := int(about.get("history_lost", "0"))) > 0:
        yield Finding("history", "warning", f"the store has turned out to have forgotten {lost} times since it began")
    else:
        yield Finding("history", "ok", "the store has never turned out to have forgotten")
    state: State = "ok" if abs(apart) <= MOST_APART else "warning"
    yield Finding(
        "clock", state, f"the store's is {abs(apart):.1f} s {'ahead' if apart > 0 else 'behind'}; windows go by it"
    )


def _upstream(settings: "Settings") -> Finding:
    from gateway.core.errors import UpstreamUnreachable
    from gateway.transport import Transport
    from gateway.upstream import Upstream

    async def probe() -> float:
        transport = Transport()
        try:
            return await Upstream(settings.upstream, transport).reachable()
        finally:
            await transport.aclose()

    base = settings.upstream.base_url
    try:
        took = asyncio.run(probe())
    except UpstreamUnreachable as error:
        cause = f": {error.__cause__}" if error.__cause__ is not None else ""
        return Finding("upstream", "wrong", f"{base} cannot be connected to{cause}")
    return Finding("upstream", "ok", f"{base} was connected to in {took * 1000:.0f} ms; its key was not tried")


def _port(about: str, host: str, port: int) -> Finding:
    place = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((host, port))
        except OSError as error:
            if _is_gateway(host, port):
                return Finding(about, "ok", f"{place} is held by a gateway that runs")
            return Finding(about, "wrong", f"{place} cannot be taken: {error.strerror}")
    return Finding(about, "ok", f"{place} is free")


def _is_gateway(host: str, port: int) -> bool:
    near = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    connection = http.client.HTTPConnection(near, port, timeout=SOON_ANSWERED)
    try:
        connection.request("GET", "/readyz")
        return json.loads(connection.getresponse().read(1000)).get("status") in ("ready", "not ready")
    except (OSError, http.client.HTTPException, ValueError, AttributeError):
        return False
    finally:
        connection.close()


def _files(settings: "Settings") -> Finding:
    from gateway.server import files_needed

    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    needed = files_needed(settings.limits.max_inflight_per_worker)
    if limit != resource.RLIM_INFINITY and limit < needed:
        says = f"{limit} open files are allowed, {needed} needed for max_inflight_per_worker: raise it (ulimit -Hn)"
        return Finding("files", "warning", says)
    return Finding("files", "ok", f"{'any number of' if limit == resource.RLIM_INFINITY else limit} open files allowed")


def _curl(settings: "Settings") -> str:
    host, port = settings.listen.public
    near = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, f"[{host}]" if ":" in host else host)
    return (
        f"curl -sS http://{near}:{port}/v1/images/generations -H 'Authorization: Bearer KEY' "
        "-H 'Content-Type: application/json' -d '{\"prompt\": \"A lighthouse at dusk\"}'"
    )


def _print(finding: Finding) -> None:
    if not sys.stdout.isatty():
        typer.echo(f"{finding.state}\t{finding.about}\t{finding.says}")
        return
    from rich.console import Console
    from rich.text import Text

    styled = (f"{finding.state:8}", _STYLES[finding.state])
    Console(soft_wrap=True, highlight=False).print(Text.assemble(styled, (f"{finding.about:12}", "bold"), finding.says))
