"""Everything that can become of a request and of a gateway, with a canary wherever a secret can stand.

What was sent, written and shown on the way is gathered as places. The steps stand in their order in `ALL`.
"""

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jwt
import redis

from gateway.core import keys
from tests.canaries.canaries import Place, parts_of_token
from tests.e2e import wire
from tests.e2e.saving import renamed
from tests.support.engines import Node
from tests.support.running import Running, base_config
from tests.support.simulated import SimulatorThread
from tests.support.site import wait_until

ISSUER = {"issuer": "https://id.example.com", "audience": "image-gateway", "algorithms": ["HS256"]}

#: What the client that asked may read: its own words, and where its image is.
ITS_OWN = frozenset({"prompt", "refused prompt", "wrong value", "user field", "path", "URL signature"})

#: What is kept in the store of an answer, to be given again to who sends the same Idempotency-Key.
KEPT_ANSWER = frozenset({"prompt", "URL signature"})


@dataclass(slots=True)
class Scenario:
    """A gateway of two workers with a password on its store, and what has been seen of it so far."""

    gateway: Running
    simulator: SimulatorThread
    store: Node
    canaries: dict[str, str]
    places: list[Place] = field(default_factory=list)
    original: bytes = b""

    # Asking

    def ask(self, name: str, *pieces: bytes, belongs: frozenset[str] = ITS_OWN) -> wire.Answer:
        return self.heard(name, wire.ask(self.gateway.url, *pieces), belongs)

    def ask_admin(self, name: str, path: str, token: str | None) -> wire.Answer:
        request = wire.head(path, key=token, method="GET", content_type=None)
        return self.heard(name, wire.ask(self.gateway.admin_url, request), frozenset())

    def heard(self, name: str, answer: wire.Answer, belongs: frozenset[str]) -> wire.Answer:
        head = "\n".join(f"{key}: {value}" for key, value in answer.headers)
        self.places += [
            Place(f"answer {answer.status} {name}", answer.body, belongs),
            Place(f"headers {answer.status} {name}", head.encode()),
        ]
        return answer

    def order(self, *lines: str, key: str = "team key", **fields: object) -> bytes:
        c = self.canaries
        lines = (f"X-Note: {c['header value']}", f"Cookie: session={c['cookie']}", *lines)
        fields = {"prompt": f"a lighthouse {c['prompt']}", "user": c["user field"], **fields}
        return wire.generation(c[key], *lines, **fields)

    def edit(self, name: str = "image", **canary: str) -> bytes:
        c = {**self.canaries, **canary}
        picture = wire.png()
        data = picture[:-12] + wire.chunk(b"prVt", c["file bytes"].encode()) + picture[-12:]
        file = f"{c['file name']}.png"
        return wire.edit(c["team key"], wire.image(data, name, file), wire.text("prompt", c["prompt"]))

    def token(self, **more: object) -> str:
        now = int(time.time())
        claims = {"iss": ISSUER["issuer"], "aud": ISSUER["audience"], "team": "design", "iat": now, "exp": now + 600}
        claim = {"jti": self.canaries["JWT claim"]}
        text = jwt.encode({**claims, **claim, **more}, self.canaries["JWT secret"], algorithm="HS256")
        for part, value in parts_of_token(text).items():
            self.canaries[f"{part} {len(self.canaries)}"] = value
        return text

    def signed(self) -> dict[str, object]:
        """A good answer of the upstream's, whose address carries a signature."""
        url = f"https://files.example.com/a.png?sig={self.canaries['URL signature']}"
        return {"created": 1, "data": [{"url": url, "revised_prompt": f"a lighthouse {self.canaries['prompt']}"}]}

    # Looking

    def logged(self, event: str) -> int:
        return self.gateway.log_text().count(f'"event": "{event}"') + self.gateway.log_text().count(
            f'"event":"{event}"'
        )

    def workers(self) -> set[int]:
        children = Path(f"/proc/{self.gateway.pid}/task/{self.gateway.pid}/children").read_text("ascii")
        return {int(pid) for pid in children.split()}

    def back(self) -> None:
        """Wait till the store decides again."""
        usage = wire.head("/v1/usage", key=self.canaries["team key"], method="GET", content_type=None)
        wait_until(lambda: wire.ask(self.gateway.url, usage).status == 200, seconds=10)

    def save(self, text: bytes, event: str) -> None:
        """Put that in the config's place and wait till a worker has said what becomes of it."""
        before = self.logged(event)
        renamed(self.gateway.folder / "config.yaml", text)
        wait_until(lambda: self.logged(event) > before)


def config(canaries: Mapping[str, str], *, upstream: str, secret: str = "env:CANARY_") -> dict[str, Any]:
    """The whole configuration. secret: how its secrets are named, before the name itself."""

    def key(name: str, id_: str, **more: str) -> dict[str, str]:
        return {"id": id_, "sha256": keys.digest(canaries[name]).hex(), **more}

    whole = base_config(upstream=upstream, workers=2)
    whole["listen"]["admin_token"] = f"{secret}ADMIN"
    whole["upstream"]["accounts"] = [{"name": "main", "api_key": f"{secret}UPSTREAM", "max_concurrent": 2}]
    whole["upstream"]["total_timeout"] = "6s"
    whole["request_limits"] = {"body_idle_timeout": "2s"}
    whole["store"] = {"kind": "redis", "url": f"{secret}STORE", "data_dir": "./data"}
    whole["jwt_issuers"] = {"corp": {**ISSUER, "secret": f"{secret}JWT"}}
    whole["teams"] = {
        "design": {"keys": [key("team key", "ci"), key("expired key", "old", expires="2020-01-01")], "unlimited": True},
        "gone": {"suspended": "budget review", "unlimited": True},
        "small": {"quotas": [{"images": 1, "per": "day"}]},
    }
    return whole


def values(canaries: Mapping[str, str], *, store: str) -> dict[str, str]:
    """What the config's secrets are, by the name behind `secret`."""
    return {
        "ADMIN": canaries["admin token"],
        "UPSTREAM": canaries["upstream key"],
        "STORE": store,
        "JWT": canaries["JWT secret"],
    }


# The steps


def good_orders(run: Scenario) -> None:
    c = run.canaries
    run.simulator.script({"status": 200, "body": run.signed()}, {"status": 200, "body": run.signed()})
    once = f"Idempotency-Key: {c['idempotency key']}"
    query = f"generations?key={c['query string']} ".encode()
    statuses = [
        run.ask("ok", run.order()).status,
        run.ask("ok, kept", run.order(once)).status,
        run.ask("replayed", run.order(once)).status,
        run.ask("made", run.order(response_format="b64_json")).status,
        run.ask("edit", run.edit()).status,
        run.ask("by token", wire.generation(run.token(), prompt=c["prompt"])).status,
        run.ask("with a query", run.order().replace(b"generations ", query)).status,
        run.ask("models", wire.head("/v1/models", key=c["team key"], method="GET", content_type=None)).status,
        run.ask("usage", wire.head("/v1/usage", key=c["team key"], method="GET", content_type=None)).status,
        run.ask("openapi", wire.head("/openapi.json", key=None, method="GET", content_type=None)).status,
    ]  # fmt: skip
    assert statuses == [200] * 10


def refusals(run: Scenario) -> None:
    c = run.canaries
    other = f"Idempotency-Key: {c['idempotency key']}"
    words = c["refused prompt"]
    bad = run.token(exp=int(time.time()) - 100, iat=int(time.time()) - 200)
    image = run.edit(**{"file bytes": c["refused file bytes"]}).replace(b"\x89PNG", b"GIF8")
    statuses = [
        run.ask("unknown key", run.order(key="unknown key")).status,
        run.ask("expired key", run.order(key="expired key")).status,
        run.ask("key that is cut", wire.generation(c["team key"][:-1], prompt=words)).status,
        run.ask("two keys", run.order(f"api-key: {c['unknown key']}")).status,
        run.ask("expired token", wire.generation(bad, prompt=words)).status,
        run.ask("forged token", wire.generation(run.token()[:-6] + "AAAAAA", prompt=words)).status,
        run.ask("token of a team that is suspended", wire.generation(run.token(team="gone"), prompt=words)).status,
        run.ask("token of no team", wire.generation(run.token(team=c["JWT claim"].lower()), prompt=words)).status,
        run.ask("over its quota", wire.generation(run.token(team="small"), prompt=words, n=2)).status,
        run.ask("wrong size", run.order(prompt=words, size=c["wrong value"])).status,
        run.ask("wrong model", run.order(prompt=words, model=c["wrong value"])).status,
        run.ask("broken", wire.generation_of(b'{"prompt": "' + c["broken body"].encode(), c["team key"])).status,
        run.ask("no PNG", image).status,
        run.ask("another order", run.order(other, prompt=words)).status,
        run.ask("unknown path", run.order().replace(b"images/generations", c["path"].encode())).status,
        run.ask("bad header", run.order(f"Bad Header: {c['header value']}")).status,
    ]
    assert statuses == [401, 401, 401, 400, 401, 401, 403, 403, 429, 400, 404, 400, 400, 422, 404, 400]
    with wire.connected(run.gateway.url) as leaving:
        whole = run.edit()
        leaving.send(whole[: len(whole) // 2])
    wait_until(lambda: '"client_gone"' in run.gateway.log_text())


def admin_port(run: Scenario) -> None:
    for path in ("/metrics", "/", "/readyz?verbose", "/livez"):
        assert run.ask_admin(path, path, run.canaries["admin token"]).status == 200
        run.ask_admin(f"{path} with a wrong token", path, run.canaries["wrong admin token"])
        run.ask_admin(f"{path} without", path, None)


def hostile_upstream(run: Scenario) -> None:
    """It says all it knows and more: our key, its own secrets, signatures, in bodies of every kind and in headers."""
    c = run.canaries
    theirs = c["upstream's own"]
    words = (
        f"Incorrect API key {c['upstream key']}, authorization: Bearer {c['upstream key']}; "
        f"see https://x.test/a?sig={c['URL signature']}"
    )
    headers = {
        "x-debug": f"{c['upstream key']} {theirs}",
        "set-cookie": f"session={theirs}",
        "www-authenticate": f"Bearer {c['upstream key']}",
        "location": f"https://x.test/?sig={c['URL signature']}",
    }
    error = {"error": {"message": words, "type": c["upstream key"], "code": c["upstream key"], "param": "prompt"}}
    trace = f"<pre>Traceback: key={c['upstream key']} password={theirs}</pre>"
    for status, body in (
        (401, error), (403, trace), (402, error), (429, error), (400, error), (404, error), (413, trace), (422, error),
        (500, error), (503, trace), (302, trace), (418, error), (502, trace), (504, error), (520, trace),
        (200, trace), (200, {"data": [{"id": words}]}), (200, f'{{"data": [{{"url": "{theirs}'),
    ):  # fmt: skip
        run.simulator.script({"status": status, "headers": headers, "body": body})
        # A refused order's signature is no image's address, so that belongs to nobody.
        answer = run.ask(f"upstream {status}", run.order(), belongs=frozenset({"prompt"}))
        assert answer.status >= 400
    for fault in ("drop", "reset", "cut"):
        run.simulator.script({"fault": fault, "headers": headers})
        assert run.ask(f"upstream {fault}", run.order()).status == 424


def upstream_away(run: Scenario) -> None:
    run.simulator.stop()
    try:
        assert run.ask("upstream away", run.order()).status == 503
        assert run.ask("upstream away, edit", run.edit()).status == 503
    finally:
        run.simulator.start()


def crowded(run: Scenario) -> None:
    """Two orders hang until their time is over, and are all that the account takes."""
    run.simulator.script({"fault": "hang", "times": 2})
    with ThreadPoolExecutor(2) as pool:
        hanging = [pool.submit(wire.ask, run.gateway.url, run.order()) for _ in range(2)]
        wait_until(lambda: run.simulator.record.totals.in_flight == 2)
        assert run.ask("crowded", run.order()).error["code"] == "overloaded"
        for each in hanging:
            assert run.heard("hanging", each.result(), ITS_OWN).status == 424


def killed(run: Scenario) -> None:
    """All workers, one of them in the middle of an order; whose slot is lost for the half minute of its lease."""
    run.simulator.script({"fault": "hang"})
    before = run.workers()
    with wire.connected(run.gateway.url) as held:
        held.send(run.order())
        wait_until(lambda: run.simulator.record.totals.in_flight == 1)
        for pid in before:
            os.kill(pid, signal.SIGKILL)
        wait_until(lambda: len(run.workers()) == 2 and not before & run.workers())
    wait_until(lambda: wire.ask(run.gateway.url, run.order()).status == 200)


def own_fault(run: Scenario) -> None:
    answer = run.ask("explode", run.order(prompt=f"explode {run.canaries['prompt']}"), belongs=frozenset())
    assert (answer.status, answer.error["code"]) == (500, "internal_error")
    # Of thread, finalizer, callback, task and library a line each, and the cause of the one that ended the request.
    wait_until(lambda: len(re.findall("ValueError", run.gateway.log_text())) >= 6)


def store_away(run: Scenario) -> None:
    """It has another password of a sudden, then does not answer, then is itself again."""
    with run.store.client() as client:
        client.config_set("requirepass", run.canaries["former store password"])
        client.client_kill_filter(_type="normal", skipme=True)
        wait_until(lambda: run.ask("wrong password", run.order()).status == 503)
        client.config_set("requirepass", run.canaries["store password"])
    run.back()
    run.store.signal(signal.SIGSTOP)
    try:
        assert run.ask("store silent", run.order()).status == 503
    finally:
        run.store.signal(signal.SIGCONT)
    run.back()


def bad_reloads(run: Scenario) -> None:
    """Secrets pasted where their names belong, and files that end within one."""
    c = run.canaries
    pasted = c["pasted upstream key"]
    text = run.original.decode()
    for bad in (
        text.replace("env:CANARY_UPSTREAM", pasted),
        text.replace("env:CANARY_ADMIN", c["admin token"]),
        text.replace("env:CANARY_STORE", f"redis://:{c['store password']}@127.0.0.1:1/0"),
        text.replace("env:CANARY_JWT", f"'{c['JWT secret']}"),
        text.replace("env:CANARY_JWT", f"env:{c['JWT secret']}"),
        text.replace(keys.digest(c["team key"]).hex(), c["team key"]),
        text.replace("suspended:", f"{pasted}:"),
        f"{text}\n{pasted}",
        f"{text}\n  - {{{pasted}",
        text.replace("budget review", f"*{c['team key']}"),
    ):
        assert bad != text
        run.save(bad.encode(), "config refused, the old one stays")
        run.ask_admin("dashboard with a bad file", "/", c["admin token"])
        run.ask_admin("readiness with a bad file", "/readyz?verbose", c["admin token"])
        checked = run.gateway.folder / "bad.yaml"
        checked.write_text(bad, "utf-8")
        command(run, "check", str(checked))
    suspended = text.replace("budget review", "another review")
    run.save(suspended.encode(), "config reloaded")
    run.save(run.original, "config reloaded")
    os.kill(run.gateway.pid, signal.SIGHUP)
    before = run.workers()
    wait_until(lambda: len(run.workers()) == 2 and not before & run.workers(), seconds=20)


def commands(run: Scenario) -> None:
    """What the command line prints, with the right secrets, with wrong ones, and without any."""
    file = str(run.gateway.folder / "config.yaml")
    other = run.gateway.folder / "other.yaml"
    other.write_bytes(run.original.replace(b"budget review", b"x").replace(b"CANARY_UPSTREAM", b"CANARY_SPARE"))
    at = ("-c", file)
    refused = wire.ask(run.gateway.url, wire.generation(run.token(team="small"), prompt="x", n=2))
    password = run.canaries["store password"]
    malformed = {"CANARY_STORE": f"redis://:{password}#{password}@127.0.0.1:{run.store.port}/0"}
    wrong = {"CANARY_STORE": f"redis://:{run.canaries['former store password']}@127.0.0.1:{run.store.port}/0"}
    nobody = {"CANARY_STORE": f"redis://:{password}@127.0.0.1:1/0"}
    control = {"CANARY_UPSTREAM": f"{run.canaries['spare upstream key']}\n{run.canaries['upstream key']}"}
    calls: list[tuple[tuple[str, ...], Mapping[str, str]]] = [
        (("check", file, "--resolve", "--json"), {}),
        (("check", file, "--resolve"), control),
        (("check", file, "--resolve"), {"CANARY_STORE": password}),
        (("doctor", *at), {}),
        (("doctor", *at), malformed),
        (("doctor", *at), wrong),
        (("serve", *at), malformed),
        (("why", refused.header("x-request-id") or "", *at), {}),
        (("why", "--team", "small", *at, "--json"), {}),
        (("usage", "--by", "team,key,account", *at, "--json"), {}),
        (("usage", *at), malformed),
        (("usage", *at), nobody),
        (("keys", "list", *at, "--json"), {}),
        (("explain", "--team", "small", *at, "--json"), {}),
        (("diff", file, str(other), "--json"), {}),
        (("quota", "show", *at, "--json"), {}),
    ]
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda call: command(run, *call[0], **call[1]), calls))


def command(run: Scenario, *words: str, **environ: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "gateway", *words],
        env={**os.environ, **run.gateway.environ, **environ},
        capture_output=True,
        stdin=subprocess.DEVNULL,
        timeout=60,
        check=False,
    )
    assert done.stdout + done.stderr
    run.places.append(Place(f"gateway {' '.join(words[:2])}, exit {done.returncode}", done.stdout + done.stderr))


#: In this order; each leaves the gateway as it found it.
ALL = (
    good_orders,
    refusals,
    admin_port,
    hostile_upstream,
    upstream_away,
    own_fault,
    crowded,
    killed,
    store_away,
    bad_reloads,
    commands,
)


# Where to look


def written(run: Scenario) -> Iterator[Place]:
    """The log with all tracebacks, /metrics, and every file of the gateway's, its workers' metrics among them."""
    yield Place("log", run.gateway.log_text().encode())
    yield from files(run.gateway.folder)


def files(folder: Path, *, but: tuple[str, ...] = ()) -> Iterator[Place]:
    """What stands in files, but in those whose names contain one of these words."""
    for path in sorted(folder.rglob("*")):
        # Written by the scenario itself: what is pasted there is found by whoever reads it.
        if path.is_file() and path.name not in {"bad.yaml", *but} and not path.is_socket():
            yield Place(f"file {path.relative_to(folder)}", path.read_bytes())


def processes(pids: set[int], *, environ: bool) -> Iterator[Place]:
    """environ: whether the secrets came by files, so that no environment has any."""
    for pid in sorted(pids):
        for name in ("cmdline", "environ") if environ else ("cmdline",):
            with contextlib.suppress(OSError):  # it has ended meanwhile
                yield Place(f"{name} of a process", Path(f"/proc/{pid}/{name}").read_bytes())


def stored(client: "redis.Redis") -> Iterator[Place]:
    """Every key of the store and every value."""
    for key in map(str, client.scan_iter()):
        value = _value(client, key)
        kept = isinstance(value, dict) and "print" in value
        yield Place(f"store {key}", f"{key} {value!r}".encode(), KEPT_ANSWER if kept else frozenset())


def _value(client: "redis.Redis", key: str) -> object:
    match client.type(key):
        case "string":
            return client.get(key)
        case "hash":
            return client.hgetall(key)
        case "list":
            return client.lrange(key, 0, -1)
        case "set":
            return client.smembers(key)
        case "zset":
            return client.zrange(key, 0, -1, withscores=True)
        case "stream":
            return client.xrange(key)
        case kind:
            raise AssertionError(f"{key} is a {kind!r}")


def descendants(pid: int) -> set[int]:
    found = {pid}
    with contextlib.suppress(OSError):
        for child in Path(f"/proc/{pid}/task/{pid}/children").read_text("ascii").split():
            found |= descendants(int(child))
    return found
