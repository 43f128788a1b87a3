"""Tokens of the config's issuers over a real gateway, beside opaque keys. The issuer's endpoint is a real server."""

import base64
import hashlib
import hmac
import json
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from tests.e2e import saving, wire
from tests.e2e.watching import Watched
from tests.support.running import SECRETS, Running, base_config, running_gateway
from tests.support.simulated import SimulatorThread, running_simulator
from tests.support.site import team, wait_until

AUDIENCE = "image-gateway"
SHARED = "a-shared-secret-of-more-than-32-bytes"

ONE, TWO = (rsa.generate_private_key(65537, 2048) for _ in range(2))
PEM = (
    ONE.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo).decode()
)


def jwk(key: rsa.RSAPrivateKey, kid: str) -> dict[str, Any]:
    return {**jwt.algorithms.RSAAlgorithm.to_jwk(key.public_key(), as_dict=True), "kid": kid, "use": "sig"}


@dataclass(slots=True)
class Issuer:
    """An endpoint of key sets; fetched counts its requests. hold: while it is clear, none is answered."""

    body: bytes = b""
    fetched: int = 0
    asked: threading.Event = field(default_factory=threading.Event)
    hold: threading.Event = field(default_factory=threading.Event)
    url: str = ""

    def publish(self, *keys: dict[str, Any]) -> None:
        self.body = json.dumps({"keys": keys}).encode()


@pytest.fixture(scope="module")
def issuers() -> Iterator[dict[str, Issuer]]:
    found = {"plain": Issuer(), "slow": Issuer()}
    found["plain"].hold.set()
    for each in found.values():
        each.publish(jwk(ONE, "one"))

    class Endpoint(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            issuer = found[self.path.strip("/")]
            issuer.fetched += 1
            issuer.asked.set()
            issuer.hold.wait(10)
            self.send_response(200)
            self.send_header("content-length", str(len(issuer.body)))
            self.end_headers()
            self.wfile.write(issuer.body)

        def log_message(self, *_: object) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Endpoint)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    for name, each in found.items():
        each.url = f"http://127.0.0.1:{server.server_port}/{name}"
    yield found
    for each in found.values():
        each.hold.set()
    server.shutdown()
    thread.join()
    server.server_close()


@dataclass(frozen=True, slots=True)
class Site:
    gateway: Running
    simulator: SimulatorThread

    def ask(self, credential: str) -> wire.Answer:
        return wire.ask(self.gateway.url, wire.generation(credential))

    def line(self, answer: wire.Answer) -> dict[str, Any]:
        """What the log says of it; a fact that is None is not there."""
        found = Watched(self.gateway, self.simulator).request_line(answer.header("x-request-id") or "")
        return defaultdict(lambda: None, found)


@pytest.fixture(scope="module")
def site(issuers: dict[str, Issuer], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    file = tmp_path_factory.mktemp("keys") / "jwks.json"
    file.write_text(json.dumps({"keys": [jwk(ONE, "one")]}))
    with running_simulator() as simulator:
        config = base_config(upstream=simulator.base_url)
        config["teams"]["gone"] = team("gone", {"suspended": "budget review"})
        common = {"audience": AUDIENCE}
        config["jwt_issuers"] = {
            "by-url": {**common, "issuer": "https://url.example", "jwks_url": issuers["plain"].url},
            "by-slow-url": {**common, "issuer": "https://slow.example", "jwks_url": issuers["slow"].url},
            "by-file": {**common, "issuer": "https://file.example", "jwks_file": str(file)},
            "by-key": {**common, "issuer": "https://key.example", "public_key": PEM},
            "by-secret": {
                **common,
                "issuer": "https://secret.example",
                "secret": "env:TEST_JWT_SECRET",
                "algorithms": ["HS256"],
            },
        }
        with running_gateway(config=config, environ={"TEST_JWT_SECRET": SHARED}) as gateway:
            yield Site(gateway, simulator)


def token(source: str = "url", *, key: Any = ONE, alg: str = "RS256", kid: str | None = "one", **more: object) -> str:
    now = int(time.time())
    body = {
        "iss": f"https://{source}.example",
        "aud": AUDIENCE,
        "exp": now + 600,
        "iat": now,
        "team": "research",
        **more,
    }
    return jwt.encode(
        {name: value for name, value in body.items() if value is not None},
        key,
        algorithm=alg,
        headers={"kid": kid} if kid is not None else None,
    )


def own(head: dict[str, object], body: dict[str, object], secret: bytes) -> str:
    """A token under HMAC with any secret, which a library would refuse to make."""
    parts = [base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=") for part in (head, body)]
    mac = hmac.digest(secret, b".".join(parts), hashlib.sha256)
    return b".".join([*parts, base64.urlsafe_b64encode(mac).rstrip(b"=")]).decode()


@pytest.mark.parametrize("source", ["url", "file", "key", "secret"])
def test_a_token_of_each_kind_of_issuer_orders_for_its_team(site: Site, source: str) -> None:
    """A picture comes back, charged to the team of the claim, and the log names the issuer as the key."""
    text = token("secret", key=SHARED, alg="HS256") if source == "secret" else token(source)
    answer = site.ask(text)
    assert (answer.status, answer.header("x-gateway-team")) == (200, "research")
    assert site.line(answer)["key_id"] == f"jwt-by-{source}"


def test_opaque_keys_go_on_beside(site: Site) -> None:
    """Where issuers are configured the teams' own keys still work, and are not looked for at an issuer."""
    assert site.ask(SECRETS["free"]).status == 200


def test_all_bad_tokens_get_one_answer(site: Site) -> None:
    """Whatever is wrong about it, status and body are those of a wrong key, and nothing goes up."""
    now = int(time.time())
    good = token("key")
    claims = {"iss": "https://key.example", "aud": AUDIENCE, "exp": now + 600, "team": "research"}
    bad = {
        "wrong key": "igw_" + "0" * 39,
        "expired": token("key", exp=now - 60, iat=now - 600),
        "another's signature": token("key", key=TWO),
        "no exp": token("key", exp=None),
        "no aud": token("key", aud=None),
        "another aud": token("key", aud="image-gateway-staging"),
        "unknown issuer": token("nobody"),
        "two days": token("key", exp=now + 2 * 86400),
        "none": own({"alg": "none"}, claims, b""),
        "HS256 under the public key": own({"alg": "HS256"}, claims, PEM.encode()),
        "padding": f"{good}=",
        "five parts": f"{good}.AAAA.AAAA",
        "crit": jwt.encode(claims, ONE, algorithm="RS256", headers={"crit": ["x"], "x": 1}),
        "too long": token("key", filler="x" * 9000),
        "unknown kid": token("url", kid="../../etc/passwd"),
        "nothing": "..",
    }
    site.simulator.record.clear()
    answers = {name: site.ask(text) for name, text in bad.items()}
    assert {name: answer.status for name, answer in answers.items()} == dict.fromkeys(bad, 401)
    assert len({answer.body for answer in answers.values()}) == 1
    assert site.simulator.record.requests == ()


def test_a_good_token_of_no_team_is_told_so(site: Site) -> None:
    """403 team_unknown, and 403 team_suspended for a team that is; both name whom to ask."""
    for name, code in (("nobody", "team_unknown"), ("gone", "team_suspended")):
        answer = site.ask(token("key", team=name))
        assert (answer.status, answer.error["code"]) == (403, code)
        assert answer.error["message"].endswith("Ask image-gateway@example.com")


def test_random_kids_cost_the_issuer_next_to_nothing(site: Site, issuers: dict[str, Issuer]) -> None:
    """200 tokens with a kid each make no more fetches than two in the minute, and good ones go on."""
    assert site.ask(token()).status == 200
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(site.ask, [token(kid=f"k{i}") for i in range(200)]))
    assert {answer.status for answer in answers} == {401}
    assert site.ask(token()).status == 200
    assert 1 <= issuers["plain"].fetched <= 2


def test_a_slow_issuer_holds_up_its_own_tokens_alone(site: Site, issuers: dict[str, Issuer]) -> None:
    """While its keys are being fetched, keys and tokens of others are answered; then its token is."""
    with ThreadPoolExecutor() as pool:
        waiting = pool.submit(site.ask, token("slow"))
        assert issuers["slow"].asked.wait(5)
        assert [site.ask(text).status for text in (SECRETS["free"], token(), token("key"))] == [200] * 3
        assert not waiting.done()
        issuers["slow"].hold.set()
        assert waiting.result().status == 200


def _refused(site: Site, text: str) -> bool:
    return site.ask(text).status == 401


@pytest.mark.parametrize("name", ["url", "key"])
def test_a_saved_revocation_binds_within_two_seconds(site: Site, name: str) -> None:
    """One token by its jti, then all by time: refused by the saved file like a wrong key; a newer one is taken."""
    earlier = int(time.time()) - 120
    stolen, plain = token(name, team="free", iat=earlier, jti="stolen"), token(name, team="free", iat=earlier)
    assert [site.ask(text).status for text in (stolen, plain)] == [200, 200]
    saved = saving.Site(site.gateway, site.simulator)

    def by_jti(tree: Any) -> None:
        tree["jwt_issuers"][f"by-{name}"]["revoked_tokens"] = ["stolen"]

    def by_time(tree: Any) -> None:
        then = datetime.fromtimestamp(time.time() - 60, UTC).isoformat(timespec="seconds")
        tree["jwt_issuers"][f"by-{name}"]["revoked_before"] = then

    for change, bound, expected in ((by_jti, stolen, [401, 200, 200]), (by_time, plain, [401, 401, 200])):
        saved.save(change)
        wait_until(partial(_refused, site, bound), seconds=2)
        answers = [site.ask(text) for text in (stolen, plain, token(name, team="free"))]
        assert [answer.status for answer in answers] == expected
        assert answers[0].body == site.ask("igw_" + "0" * 39).body
        assert site.line(answers[0])["reason"] == "token_revoked"


def test_no_token_stands_in_the_log(site: Site) -> None:
    """No part of a token that was sent, good or bad, is written down; the reason of its refusal is."""
    good, bad = token("key"), token("key", key=TWO)
    assert [site.line(site.ask(text))["reason"] for text in (good, bad, token("key", exp=1))] == [
        None,
        "token_invalid",
        "token_expired",
    ]
    log = site.gateway.log_text()
    for text in (good, bad):
        for part in text.split(".")[1:]:
            assert part[:40] not in log
    assert "eyJ" not in log
    assert SHARED not in log
