"""Tokens: RFC 8725's advice row by row. What is signed here is signed by hand, not by a library of tokens."""

import asyncio
import base64
import gzip
import hashlib
import hmac
import json
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

from gateway import jwks
from gateway.core.catalog import JwtIssuer, Settings
from gateway.core.errors import AuthenticationFailed, TeamUnknown
from gateway.core.secret import Secret
from gateway.tokens import AGAIN, MAX_KEY_SET, MAX_KEYS, QUIET, REFRESH, RETRY, STALE, KeySetError, Tokens, key_set
from tests.core import sample
from tests.support.rawserver import Peer, RawServer, answering

ISSUER, AUDIENCE = "https://id.example.com", "image-gateway"
MESSAGE = "no"
SHARED = "s" * 64

Sign = Callable[[bytes], bytes]


@dataclass(frozen=True, slots=True)
class Signer:
    """A key pair of the issuer's."""

    private: rsa.RSAPrivateKey

    def rs256(self, data: bytes) -> bytes:
        return self.private.sign(data, padding.PKCS1v15(), hashes.SHA256())

    def ps256(self, data: bytes) -> bytes:
        pss = padding.PSS(mgf=padding.MGF1(hashes.SHA256()), salt_length=32)
        return self.private.sign(data, pss, hashes.SHA256())

    def rs512(self, data: bytes) -> bytes:
        return self.private.sign(data, padding.PKCS1v15(), hashes.SHA512())

    @property
    def pem(self) -> str:
        return _public(self.private, serialization.Encoding.PEM).decode()

    @property
    def der(self) -> bytes:
        return _public(self.private, serialization.Encoding.DER)

    def jwk(self, kid: str | None = "one", **more: object) -> dict[str, object]:
        numbers = self.private.public_key().public_numbers()
        named = {} if kid is None else {"kid": kid}
        return {"kty": "RSA", "n": _number(numbers.n), "e": _number(numbers.e), **named, **more}


def _public(key: rsa.RSAPrivateKey, encoding: serialization.Encoding) -> bytes:
    return key.public_key().public_bytes(encoding, serialization.PublicFormat.SubjectPublicKeyInfo)


def _signer(bits: int = 2048) -> Signer:
    return Signer(rsa.generate_private_key(65537, bits))


ONE, TWO = _signer(), _signer()


def _b64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _number(value: int, size: int | None = None) -> str:
    return _b64(value.to_bytes(size or (value.bit_length() + 7) // 8))


def claims(**more: object) -> dict[str, object]:
    """Good ones for an hour; None takes one away."""
    now = int(time.time())
    whole = {"iss": ISSUER, "aud": AUDIENCE, "exp": now + 3600, "iat": now, "team": "design", **more}
    return {name: value for name, value in whole.items() if value is not None}


def header(alg: str = "RS256", **more: object) -> dict[str, object]:
    return {"alg": alg, "typ": "JWT", **more}


def token(body: Mapping[str, object] | bytes | None = None, head: object = None, *, sign: Sign = ONE.rs256) -> str:
    """A token signed over exactly these bytes."""
    raw_head = head if isinstance(head, bytes) else json.dumps(header() if head is None else head).encode()
    raw_body = body if isinstance(body, bytes) else json.dumps(claims() if body is None else body).encode()
    signed = f"{_b64(raw_head)}.{_b64(raw_body)}"
    return f"{signed}.{_b64(sign(signed.encode()))}"


def hs256(key: bytes) -> Sign:
    return lambda data: hmac.digest(key, data, hashlib.sha256)


def issuer(**more: Any) -> JwtIssuer:
    """An issuer that is known by its public key."""
    plain = JwtIssuer("corp", ISSUER, AUDIENCE, ("RS256",), "team", None, None, ONE.pem, None)
    return replace(plain, **more)


def by_url(**more: Any) -> JwtIssuer:
    return issuer(public_key=None, jwks_url="https://id.example.com/jwks", **more)


def settings(*issuers: JwtIssuer) -> Settings:
    return replace(sample.settings(), jwt_issuers=issuers or (issuer(),))


@dataclass(slots=True)
class Endpoint:
    """An issuer's endpoint: serves `keys`, is down with None, says nothing while it hangs; counts what is fetched."""

    keys: bytes | None
    hangs: bool = False
    fetched: int = 0
    failures: list[tuple[str, str]] = field(default_factory=list)
    now: float = 1000.0

    async def fetch(self, url: str) -> bytes:
        assert url == "https://id.example.com/jwks"
        self.fetched += 1
        await asyncio.sleep(0)
        if self.hangs:
            await asyncio.Event().wait()
        if self.keys is None:
            raise OSError("the issuer answered 503")
        return self.keys

    def tokens(self) -> Tokens:
        return Tokens(self.fetch, failed=lambda *told: self.failures.append(told), clock=lambda: self.now)


def jwk_set(*keys: Mapping[str, object]) -> bytes:
    return json.dumps({"keys": keys}).encode()


async def _never(url: str) -> bytes:
    raise AssertionError(f"{url} is not to be fetched")


def identify(text: str, *issuers: JwtIssuer, tokens: Tokens | None = None) -> str:
    """The team; raises what the gateway would answer."""
    return asyncio.run(_identify(tokens or Tokens(_never, failed=_ignored), text, *issuers))


async def _identify(tokens: Tokens, text: str, *issuers: JwtIssuer) -> str:
    key = await tokens.identify(text, settings(*issuers), time.time(), message=MESSAGE)
    return key.team


def _ignored(_: str, __: str) -> None: ...


def refusal(text: str, *issuers: JwtIssuer, tokens: Tokens | None = None) -> str:
    """The reason of the 401, whose message must be the common one."""
    with pytest.raises(AuthenticationFailed) as caught:
        identify(text, *issuers, tokens=tokens)
    assert str(caught.value) == MESSAGE
    return caught.value.reason


def test_a_good_token_stands_for_its_team_and_its_issuer() -> None:
    """A token of a known issuer gives the claim's team, with the issuer's name as the key's id."""

    async def ask() -> tuple[str, str]:
        key = await Tokens(_never, failed=_ignored).identify(token(), settings(), time.time(), message=MESSAGE)
        return key.team, key.id

    assert asyncio.run(ask()) == ("design", "jwt-corp")


def _ec_signer(curve: ec.EllipticCurve) -> tuple[ec.EllipticCurvePrivateKey, Sign, dict[str, object]]:
    private = ec.generate_private_key(curve)
    size = (curve.key_size + 7) // 8
    algorithm = {256: hashes.SHA256(), 384: hashes.SHA384(), 521: hashes.SHA512()}[curve.key_size]

    def sign(data: bytes) -> bytes:
        r, s = decode_dss_signature(private.sign(data, ec.ECDSA(algorithm)))
        return r.to_bytes(size) + s.to_bytes(size)

    numbers = private.public_key().public_numbers()
    jwk: dict[str, object] = {
        "kty": "EC",
        "crv": f"P-{curve.key_size}",
        "x": _number(numbers.x, size),
        "y": _number(numbers.y, size),
    }
    return private, sign, jwk


def _families() -> Iterator[tuple[str, Sign, dict[str, object]]]:
    yield "RS256", ONE.rs256, ONE.jwk(None)
    yield "RS512", ONE.rs512, ONE.jwk(None)
    yield "PS256", ONE.ps256, ONE.jwk(None)
    for curve, name in ((ec.SECP256R1(), "ES256"), (ec.SECP384R1(), "ES384"), (ec.SECP521R1(), "ES512")):
        yield name, *_ec_signer(curve)[1:]
    edwards = ed25519.Ed25519PrivateKey.generate()
    raw = edwards.public_key().public_bytes_raw()
    yield "EdDSA", edwards.sign, {"kty": "OKP", "crv": "Ed25519", "x": _b64(raw)}


@pytest.mark.parametrize("pinned", [False, True], ids=["jwk without alg", "jwk with alg"])
@pytest.mark.parametrize(("alg", "sign", "jwk"), [pytest.param(*each, id=each[0]) for each in _families()])
def test_every_family_of_public_keys_verifies(
    alg: str,
    sign: Sign,
    jwk: Mapping[str, object],
    pinned: bool,
) -> None:
    """A key of a set verifies each algorithm that its type can serve, whether or not the set names one for it."""
    end = Endpoint(jwk_set({**jwk, "kid": "one", **({"alg": alg} if pinned else {})}))
    text = token(head=header(alg, kid="one"), sign=sign)
    assert identify(text, by_url(algorithms=(alg,)), tokens=end.tokens()) == "design"
    assert refusal(text[:-8] + "AAAAAAAA", by_url(algorithms=(alg,)), tokens=end.tokens()) == "token_invalid"


def test_a_shared_secret_verifies() -> None:
    """HS256 with the issuer's secret is taken, with another secret not."""
    shared = issuer(public_key=None, secret=Secret(SHARED), algorithms=("HS256",))
    assert identify(token(head=header("HS256"), sign=hs256(SHARED.encode())), shared) == "design"
    assert refusal(token(head=header("HS256"), sign=hs256(b"t" * 64)), shared) == "token_invalid"


#: A public key's forms that a confused verifier might take for a shared secret.
CONFUSIONS = {
    "PEM": ONE.pem.encode(),
    "PEM, stripped": ONE.pem.strip().encode(),
    "DER": ONE.der,
    "JWK": json.dumps(ONE.jwk()).encode(),
    "JWK set": jwk_set(ONE.jwk()),
    "modulus": str(ONE.jwk()["n"]).encode(),
    "nothing": b"",
}


def test_an_algorithm_that_the_config_does_not_name_is_refused() -> None:
    """The issuer's own key, used rightly with another of its algorithms, signs nothing."""
    for alg, sign in (("RS512", ONE.rs512), ("PS256", ONE.ps256)):
        text = token(head=header(alg, kid="one"), sign=sign)
        assert refusal(text) == "token_invalid"
        assert refusal(text, by_url(), tokens=Endpoint(jwk_set(ONE.jwk())).tokens()) == "token_invalid"
        assert identify(text, issuer(algorithms=(alg,))) == "design"


@pytest.mark.parametrize("secret", CONFUSIONS.values(), ids=CONFUSIONS)
@pytest.mark.parametrize("alg", ["HS256", "hs256", "RS256"])
def test_a_public_key_is_no_shared_secret(secret: bytes, alg: str) -> None:
    """HMAC under the public key in any of its forms is refused, for an issuer by key and one by key set."""
    text = token(head=header(alg, kid="one"), sign=hs256(secret))
    assert refusal(text) == "token_invalid"
    end = Endpoint(jwk_set(ONE.jwk()))
    assert refusal(text, by_url(), tokens=end.tokens()) == "token_invalid"
    # Even where the config were to name both, which it refuses.
    assert refusal(text, issuer(algorithms=("RS256", "HS256"))) == "token_invalid"
    assert refusal(text, by_url(algorithms=("RS256", "HS256")), tokens=end.tokens()) == "token_invalid"


FOREIGN_HEADERS: dict[str, dict[str, object]] = {
    "crit of nothing": {"crit": []},
    "crit of b64": {"crit": ["b64"], "b64": True},
    "crit unknown": {"crit": ["exp"]},
    "b64 false": {"b64": False},
    "zip": {"zip": "DEF"},
    "jku": {"jku": "https://evil.example/jwks"},
    "jku of a file": {"jku": "file:///etc/passwd"},
    "jwk": {"jwk": TWO.jwk()},
    "x5u": {"x5u": "https://evil.example/cert"},
    "x5c": {"x5c": ["MIIB"]},
    "enc": {"enc": "A128GCM"},
    "typ of another token": {"typ": "dpop+jwt"},
    "typ a number": {"typ": 1},
    "alg none": {"alg": "none"},
    "alg None": {"alg": "None"},
    "alg empty": {"alg": ""},
    "alg null": {"alg": None},
    "alg a list": {"alg": ["RS256"]},
    "alg an object": {"alg": {"RS256": "RS256"}},
    "alg not of the issuer": {"alg": "RS384"},
    "alg in small letters": {"alg": "rs256"},
    "kid a number": {"kid": 1},
    "kid null": {"kid": None},
    "kid a list": {"kid": ["one"]},
    "kid empty": {"kid": ""},
    "kid a path": {"kid": "../../../../dev/null"},
    "kid a query": {"kid": "x' UNION SELECT 'key';--"},
    "kid with NUL": {"kid": "one\0"},
    "kid with a line": {"kid": "one\n"},
    "kid in letters like ours": {"kid": "\u043ene"},
    "kid too long": {"kid": "k" * 129},
}


@pytest.mark.parametrize("more", FOREIGN_HEADERS.values(), ids=FOREIGN_HEADERS)
def test_a_header_with_a_meaning_of_its_own_is_refused(more: dict[str, object]) -> None:
    """With a good signature by the right key, a header that would change how it is read is refused all the same."""
    text = token(head={**header(), **more})
    assert refusal(text) == "token_invalid"
    assert refusal(text, by_url(), tokens=Endpoint(jwk_set(ONE.jwk())).tokens()) == "token_invalid"


def test_a_token_without_a_signature_is_refused() -> None:
    """``none``, with an empty or any signature, is refused, and so is a good token whose signature is cut off."""
    unsigned = token(head=header("none"), sign=lambda _: b"")
    stripped = token().rpartition(".")[0] + "."
    assert [refusal(text) for text in (unsigned, f"{unsigned}AA", stripped)] == ["token_invalid"] * 3


def _forms() -> Iterator[tuple[str, str]]:
    good = token()
    head, body, signature = good.split(".")
    yield "padding behind the signature", f"{good}{'=' * (-len(signature) % 4 or 2)}"
    yield "padding within", f"{head}=.{body}.{signature}"
    yield "five parts", f"{good}.AA.AA"
    yield "two parts", f"{head}.{body}"
    yield "four parts", f"{good}.AA"
    yield "an empty part", f".{body}.{signature}"
    yield "a space before", f" {good}"
    yield "a line behind", f"{good}\n"
    yield "another alphabet", f"{head}.{body}.{signature[:-1]}+"
    yield "a letter too few", f"{head[:-1]}.{body}.{signature}"
    yield "JSON serialization", json.dumps({"payload": body, "protected": head, "signature": signature})
    yield "longer than 8 KiB", token(claims(filler="x" * 8192))
    yield "a header that is a list", token(head=b"[]")
    yield "a header that is no JSON", token(head=b"alg=RS256")
    yield "a header with NaN", token(head=b'{"alg":"RS256","x":NaN}')
    yield "a header in UTF-16", token(head=json.dumps(header()).encode("utf-16"))
    yield "alg twice", token(head=b'{"alg":"none","alg":"RS256"}')
    yield "alg twice, once in capitals", token(head=b'{"alg":"RS256","ALG":"none"}')
    yield "claims that are a list", token(b"[]")
    yield "claims that are text", token(b'"x"')
    yield "claims with a byte order mark", token(b"\xef\xbb\xbf" + json.dumps(claims()).encode())
    yield "team twice", token(json.dumps(claims()).encode()[:-1] + b',"team":"research"}')
    yield "exp twice", token(json.dumps(claims()).encode()[:-1] + b',"exp":99999999999}')
    yield "nothing", ".."


@pytest.mark.parametrize("text", [pytest.param(text, id=name) for name, text in _forms()])
def test_only_one_form_of_a_token_is_read(text: str) -> None:
    """Anything but three parts of base64url around two strict JSON objects is refused, whoever signed it."""
    assert refusal(text) == "token_invalid"


@pytest.mark.parametrize("where", ["header", "claims"])
@pytest.mark.parametrize("bracket", [b"[", b'{"a":'])
def test_deep_nesting_is_refused_at_once(where: str, bracket: bytes) -> None:
    """100,000 brackets in header or claims are a 401 like any other, also where a longer token were read."""
    deep = b'{"x":' + bracket * 100_000
    whole = token(head=deep) if where == "header" else token(deep)
    small = b'{"x":' + bracket * 900
    short = token(head=small) if where == "header" else token(small)
    assert len(short) < 8192
    assert [refusal(whole), refusal(short)] == ["token_invalid"] * 2


NOW = int(time.time())

CLAIMS: dict[str, tuple[dict[str, object], str]] = {
    "expired": ({"exp": NOW - 60, "iat": NOW - 3600}, "token_expired"),
    "no exp": ({"exp": None}, "token_invalid"),
    "exp as text": ({"exp": str(NOW + 600)}, "token_invalid"),
    "exp true": ({"exp": True}, "token_expired"),
    "exp far away": ({"exp": NOW + 25 * 3600}, "token_invalid"),
    "exp of 400 digits": ({"exp": 10**400}, "token_invalid"),
    "exp of 400 digits, no iat": ({"exp": 10**400, "iat": None}, "token_invalid"),
    "exp 1e308": ({"exp": 1e308}, "token_invalid"),
    "exp a list": ({"exp": [NOW + 600]}, "token_invalid"),
    "longer than a day, half of it over": ({"exp": NOW + 12 * 3600, "iat": NOW - 13 * 3600}, "token_invalid"),
    "no iat and longer than a day": ({"exp": NOW + 25 * 3600, "iat": None}, "token_invalid"),
    "iat in the future": ({"iat": NOW + 600}, "token_invalid"),
    "iat as text": ({"iat": "now"}, "token_invalid"),
    "iat of 400 digits": ({"iat": -(10**400)}, "token_invalid"),
    "iat null": ({"iat": [None]}, "token_invalid"),
    "nbf in the future": ({"nbf": NOW + 600}, "token_invalid"),
    "nbf as text": ({"nbf": "tomorrow"}, "token_invalid"),
    "nbf of 400 digits": ({"nbf": 10**400}, "token_invalid"),
    "no iss": ({"iss": None}, "token_invalid"),
    "another iss": ({"iss": "https://evil.example"}, "token_invalid"),
    "iss a part of ours": ({"iss": ISSUER[:-1]}, "token_invalid"),
    "iss longer than ours": ({"iss": f"{ISSUER}/"}, "token_invalid"),
    "iss in capitals": ({"iss": ISSUER.upper()}, "token_invalid"),
    "iss a list": ({"iss": [ISSUER]}, "token_invalid"),
    "no aud": ({"aud": None}, "token_invalid"),
    "another aud": ({"aud": "other-service"}, "token_invalid"),
    "aud a part of ours": ({"aud": "image"}, "token_invalid"),
    "aud longer than ours": ({"aud": f"{AUDIENCE}-staging"}, "token_invalid"),
    "aud empty": ({"aud": ""}, "token_invalid"),
    "aud an empty list": ({"aud": []}, "token_invalid"),
    "aud a list of others": ({"aud": ["other-service"]}, "token_invalid"),
    "aud a list with a number": ({"aud": [AUDIENCE, 1]}, "token_invalid"),
    "aud an object": ({"aud": {AUDIENCE: 1}}, "token_invalid"),
}


@pytest.mark.parametrize(("more", "reason"), CLAIMS.values(), ids=CLAIMS)
def test_a_token_with_a_wrong_claim_is_refused(more: dict[str, object], reason: str) -> None:
    """Expiry, issuer and audience must be there, of the right type and equal; no token is valid for over a day."""
    assert refusal(token(claims(**more))) == reason


def test_claims_at_their_limits_are_taken() -> None:
    """A day's life, a list of audiences with ours, a clock that is 20 s off, and an nbf in the past are fine."""
    now = int(time.time())
    for more in (
        {"exp": now + 24 * 3600},
        {"aud": ["other-service", AUDIENCE]},
        {"exp": now - 20},
        {"iat": now + 20},
        {"nbf": now - 600, "iat": None},
        {"iat": now - 0.5},
    ):
        assert identify(token(claims(**more))) == "design"
    for kind in ("jwt", "at+jwt", "application/jwt"):
        assert identify(token(head={**header(), "typ": kind})) == "design"
    assert identify(token(head={"alg": "RS256"})) == "design"


@pytest.mark.parametrize("team", ["research2", "", None, 1, ["design"], {"design": 1}, "Design", "design\n", "other"])
def test_a_good_token_of_no_team_of_ours_is_team_unknown(team: object) -> None:
    """A token that verifies but names no team of the config is told so, and not that its key is wrong."""
    with pytest.raises(TeamUnknown) as caught:
        identify(token(claims(team=team)))
    assert "team" in str(caught.value)
    assert repr(team) not in str(caught.value)


def test_the_team_is_read_from_the_claim_that_the_config_names() -> None:
    """Another claim than `team` may hold it, and then `team` counts for nothing."""
    assert identify(token(claims(team="nobody", department="design")), issuer(team_claim="department")) == "design"
    with pytest.raises(TeamUnknown):
        identify(token(), issuer(team_claim="department"))


def test_each_issuer_goes_by_its_own_keys() -> None:
    """A token that names one issuer and is signed by another's key is refused, either way."""
    other = issuer(name="other", issuer="https://other.example", public_key=TWO.pem)
    both = (issuer(), other)
    assert identify(token(), *both) == "design"
    assert identify(token(claims(iss="https://other.example"), sign=TWO.rs256), *both) == "design"
    assert refusal(token(sign=TWO.rs256), *both) == "token_invalid"
    assert refusal(token(claims(iss="https://other.example")), *both) == "token_invalid"


def test_keys_that_are_too_short_verify_nothing() -> None:
    """RSA of 1024 bits, by PEM and by key set, and an HMAC secret under 32 bytes are refused with good signatures."""
    weak = _signer(1024)
    text = token(head=header(kid="one"), sign=weak.rs256)
    assert refusal(text, issuer(public_key=weak.pem)) == "token_invalid"
    assert refusal(text, by_url(), tokens=Endpoint(jwk_set(weak.jwk())).tokens()) == "token_invalid"
    short = issuer(public_key=None, secret=Secret("s" * 31), algorithms=("HS256",))
    assert refusal(token(head=header("HS256"), sign=hs256(b"s" * 31)), short) == "token_invalid"


@pytest.mark.parametrize("alg", ["RS256", "PS256", "ES256", "ES384", "EdDSA"])
def test_a_public_key_of_another_type_verifies_nothing(alg: str) -> None:
    """Where the config's key and the token's algorithm do not go together the answer is a plain 401."""
    private, sign, _ = _ec_signer(ec.SECP256R1())
    pem = private.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    for public in (ONE.pem, pem.decode(), "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n", "x"):
        expected = (alg == "RS256" and public == ONE.pem) or (alg == "PS256" and public == ONE.pem)
        if not expected:
            known = issuer(public_key=public, algorithms=(alg,))
            assert refusal(token(head=header(alg), sign=sign if alg != "ES256" else ONE.rs256), known)


# Key sets.


def _entry(**more: object) -> dict[str, object]:
    return {**ONE.jwk(), **more}


BAD_SETS: dict[str, bytes] = {
    "nothing": b"",
    "no JSON": b"<html>",
    "a list": b"[]",
    "no keys": b"{}",
    "no key": jwk_set(),
    "keys an object": b'{"keys": {"one": {}}}',
    "keys null": b'{"keys": null}',
    "an entry that is text": b'{"keys": ["one"]}',
    "an entry that is null": b'{"keys": [null]}',
    "a shared secret": jwk_set({"kty": "oct", "k": _b64(b"s" * 64), "kid": "one"}),
    "a shared secret among public keys": jwk_set(ONE.jwk(), {"kty": "oct", "k": _b64(b"s" * 64), "kid": "two"}),
    "a private key": jwk_set(_entry(d=_number(ONE.private.private_numbers().d))),
    "the same kid twice": jwk_set(ONE.jwk(), TWO.jwk()),
    "two without a kid": jwk_set(ONE.jwk(None), TWO.jwk(None)),
    "an odd kid": jwk_set(ONE.jwk("../one")),
    "a kid that is a number": jwk_set(_entry(kid=1)),
    "too many": jwk_set(*(ONE.jwk(f"k{i}") for i in range(MAX_KEYS + 1))),
    "too large": jwk_set(_entry(x5c=["A" * MAX_KEY_SET])),
    "a curve that is not taken": jwk_set({"kty": "EC", "crv": "secp256k1", "x": "AA", "y": "AA", "kid": "one"}),
    "a point that is not on its curve": jwk_set({**_ec_signer(ec.SECP256R1())[2], "y": _number(1, 32), "kid": "one"}),
    "RSA without a modulus": jwk_set({"kty": "RSA", "e": "AQAB", "kid": "one"}),
    "RSA with an exponent of 1": jwk_set(_entry(e="AQ")),
    "RSA with an even exponent": jwk_set(_entry(e="Ag")),
    "RSA with a modulus of 0": jwk_set(_entry(n="AA")),
    "RSA with a number": jwk_set(_entry(n=65537)),
    "alg none": jwk_set(_entry(alg="none")),
    "alg HS256": jwk_set(_entry(alg="HS256")),
    "alg of another type": jwk_set(_entry(alg="ES256")),
    "alg a number": jwk_set(_entry(alg=5)),
    "alg a list": jwk_set(_entry(alg=["RS256"])),
    "kty a list": jwk_set(_entry(kty=["RSA"])),
    "kty in small letters": jwk_set(_entry(kty="rsa")),
    "keys twice": b'{"keys": [], "keys": [{}]}',
    "deep nesting": b'{"keys": ' + b"[" * 30_000,
}


@pytest.mark.parametrize("raw", BAD_SETS.values(), ids=BAD_SETS)
def test_a_key_set_that_is_not_clear_is_used_not_at_all(raw: bytes) -> None:
    """Mixed, doubled, malformed and oversized key sets are refused whole, and tokens with them by a 401."""
    with pytest.raises(KeySetError):
        key_set(raw)
    end = Endpoint(raw)
    assert refusal(token(head=header(kid="one")), by_url(), tokens=end.tokens()) == "token_invalid"
    assert [name for name, _ in end.failures] == ["corp"]


def test_a_key_set_may_hold_keys_for_other_uses() -> None:
    """A key that is for encryption is passed over, so its kid is unknown; the others serve."""
    raw = jwk_set(ONE.jwk(use="sig", alg="RS256"), TWO.jwk("two", use="enc", alg="RSA-OAEP"))
    assert list(key_set(raw)) == ["one"]
    tokens = Endpoint(raw).tokens()
    assert identify(token(head=header(kid="one")), by_url(), tokens=tokens) == "design"
    assert refusal(token(head=header(kid="two"), sign=TWO.rs256), by_url(), tokens=tokens) == "token_invalid"


def test_a_key_serves_the_algorithm_that_its_set_names_alone() -> None:
    """A key published for PS256 verifies no RS256 token, though the issuer may use both."""
    end = Endpoint(jwk_set(ONE.jwk(alg="PS256")))
    both = by_url(algorithms=("RS256", "PS256"))
    assert refusal(token(head=header("RS256", kid="one")), both, tokens=end.tokens()) == "token_invalid"
    good = token(head=header("PS256", kid="one"), sign=ONE.ps256)
    assert identify(good, both, tokens=end.tokens()) == "design"


def test_a_token_without_kid_goes_by_the_only_key() -> None:
    """Without a kid the one key of a set is meant; of several none is."""
    assert identify(token(), by_url(), tokens=Endpoint(jwk_set(ONE.jwk())).tokens()) == "design"
    assert identify(token(), by_url(), tokens=Endpoint(jwk_set(ONE.jwk(None))).tokens()) == "design"
    several = Endpoint(jwk_set(ONE.jwk(), TWO.jwk("two")))
    assert refusal(token(), by_url(), tokens=several.tokens()) == "token_invalid"


# Fetching them.


def run(test: Callable[[], Awaitable[None]]) -> None:
    async def whole() -> None:
        await test()

    asyncio.run(whole())


def good(kid: str = "one", signer: Signer = ONE) -> str:
    return token(head=header(kid=kid), sign=signer.rs256)


async def outcome(tokens: Tokens, text: str, known: JwtIssuer) -> str:
    try:
        return await _identify(tokens, text, known)
    except AuthenticationFailed as error:
        return error.reason


async def settled(tokens: Tokens, text: str, known: JwtIssuer, wanted: str) -> None:
    """Ask until that is the outcome, for what goes on behind the request's back."""
    async with asyncio.timeout(5):
        while await outcome(tokens, text, known) != wanted:  # noqa: ASYNC110  no event tells of it
            await asyncio.sleep(0.001)


def test_unknown_kids_cost_the_issuer_one_fetch_a_minute() -> None:
    """1,000 tokens with a kid each make one fetch, and one more when a minute has passed."""
    end = Endpoint(jwk_set(ONE.jwk()))

    async def test() -> None:
        tokens, known = end.tokens(), by_url()
        texts = [token(head=header(kid=f"k{i}"), sign=lambda _: b"forged") for i in range(1000)]
        reasons = await asyncio.gather(*(outcome(tokens, text, known) for text in texts))
        assert set(reasons) == {"token_invalid"}
        assert end.fetched == 1
        end.now += AGAIN - 1
        assert await outcome(tokens, texts[0], known) == "token_invalid"
        assert end.fetched == 1
        end.now += 2
        assert {await outcome(tokens, text, known) for text in texts[:50]} == {"token_invalid"}
        assert end.fetched == 2
        assert await outcome(tokens, good(), known) == "design"
        assert end.fetched == 2

    run(test)


def test_a_new_key_works_at_once_after_one_fetch() -> None:
    """When the issuer has rolled over, the first token of the new key makes one fetch and is taken; the old is out."""
    end = Endpoint(jwk_set(ONE.jwk()))

    async def test() -> None:
        tokens, known = end.tokens(), by_url()
        assert await outcome(tokens, good(), known) == "design"
        end.keys = jwk_set(TWO.jwk("two"))
        end.now += AGAIN + 1
        many = await asyncio.gather(*(outcome(tokens, good("two", TWO), known) for _ in range(20)))
        assert (set(many), end.fetched) == ({"design"}, 2)
        assert await outcome(tokens, good(), known) == "token_invalid"

    run(test)


def test_a_key_set_is_renewed_behind_the_requests_back() -> None:
    """After ten minutes a set is fetched again, without a token that waits for it, once for all that come."""
    end = Endpoint(jwk_set(ONE.jwk()))

    async def test() -> None:
        tokens, known = end.tokens(), by_url()
        assert await outcome(tokens, good(), known) == "design"
        end.keys = jwk_set(TWO.jwk("two"))
        end.now += REFRESH + 1
        assert {await outcome(tokens, good(), known) for _ in range(3)} <= {"design", "token_invalid"}
        await settled(tokens, good(), known, "token_invalid")
        assert end.fetched == 2

    run(test)


def test_while_the_issuer_is_away_its_last_keys_serve_for_a_day() -> None:
    """A failed fetch takes nothing away; a day after the last good one nothing is accepted; it heals by itself."""
    end = Endpoint(jwk_set(ONE.jwk()))

    async def test() -> None:
        tokens, known = end.tokens(), by_url()
        assert await outcome(tokens, good(), known) == "design"
        kept, end.keys = end.keys, None
        for _ in range(23):
            end.now += 3600
            assert await outcome(tokens, good(), known) == "design"
            assert await outcome(tokens, good("new"), known) == "token_invalid"
        assert end.failures
        assert all("503" in why for _, why in end.failures)
        end.now += STALE - 23 * 3600 + 1
        assert await outcome(tokens, good(), known) == "token_invalid"
        end.keys = kept
        end.now += AGAIN + 1
        assert await outcome(tokens, good(), known) == "design"

    run(test)


@pytest.mark.parametrize("how", ["failed", "left"])
def test_a_fetch_without_an_end_is_made_again_soon(how: str) -> None:
    """An issuer that was away for a moment, or whose one asker left, is asked again after seconds; a flood before that
    asks it nothing.
    """
    end = Endpoint(jwk_set(ONE.jwk()))
    kept, end.keys = end.keys, None

    async def test() -> None:
        tokens, known = end.tokens(), by_url()
        if how == "failed":
            assert await outcome(tokens, good(), known) == "token_invalid"
        else:
            asking = asyncio.create_task(outcome(tokens, good(), known))
            await asyncio.sleep(0)
            asking.cancel()
            await asyncio.wait((asking,))
            assert asking.cancelled()
        end.keys = kept
        end.now += RETRY - 1
        assert {await outcome(tokens, good(), known) for _ in range(20)} == {"token_invalid"}
        assert end.fetched == 1
        end.now += 2
        assert await outcome(tokens, good(), known) == "design"
        assert end.fetched == 2

    run(test)


@pytest.mark.parametrize("before", ["good", "never"])
def test_all_who_wait_for_an_issuer_that_hangs_wait_once(before: str) -> None:
    """A fetch that takes its whole time and fails is the one fetch of all who came meanwhile, however many."""
    end = Endpoint(jwk_set(ONE.jwk()))

    async def timed_out(url: str) -> bytes:
        if end.keys is not None:
            return await end.fetch(url)
        end.fetched += 1
        await asyncio.sleep(0)
        end.now += RETRY
        raise OSError("the issuer did not answer in time")

    async def test() -> None:
        tokens, known = Tokens(timed_out, failed=_ignored, clock=lambda: end.now), by_url()
        if before == "good":
            assert await outcome(tokens, good(), known) == "design"
        end.keys, end.fetched = None, 0
        end.now += QUIET + 1
        found = await asyncio.gather(*(outcome(tokens, good(), known) for _ in range(20)))
        assert set(found) == {"design" if before == "good" else "token_invalid"}
        assert end.fetched == 1

    run(test)


def test_a_quiet_weekend_costs_nobody_a_refusal() -> None:
    """The first token after two days without any is taken: the set is fetched before it is judged."""
    end = Endpoint(jwk_set(ONE.jwk()))

    async def test() -> None:
        tokens, known = end.tokens(), by_url()
        assert await outcome(tokens, good(), known) == "design"
        end.now += 2 * STALE
        assert await outcome(tokens, good(), known) == "design"
        assert end.fetched == 2

    run(test)


@pytest.mark.parametrize("quiet", [QUIET + 1, STALE - 1])
def test_a_key_withdrawn_in_a_quiet_time_passes_not_once(quiet: float) -> None:
    """Where nobody has asked for twenty minutes, all tokens that come together wait for one fetch and go by it."""
    end = Endpoint(jwk_set(ONE.jwk()))

    async def test() -> None:
        tokens, known = end.tokens(), by_url()
        assert await outcome(tokens, good(), known) == "design"
        end.keys = jwk_set(TWO.jwk("two"))
        end.now += quiet
        assert set(await asyncio.gather(*(outcome(tokens, good(), known) for _ in range(20)))) == {"token_invalid"}
        assert end.fetched == 2

    run(test)


def test_keys_that_the_config_no_longer_names_are_forgotten() -> None:
    """An address that another took the place of, and that comes back, is asked anew; one that stayed is not."""
    asked: list[str] = []

    async def fetch(url: str) -> bytes:
        asked.append(url)
        return jwk_set(ONE.jwk())

    def named(path: str) -> JwtIssuer:
        return issuer(public_key=None, jwks_url=f"https://id.example.com/{path}")

    async def test() -> None:
        stays = replace(named("stays"), name="other", issuer="https://other.example.com")
        theirs = token(head=header(kid="one"), body=claims(iss=stays.issuer))
        tokens = Tokens(fetch, failed=_ignored, clock=lambda: 1000.0)
        for path in ("old", "new", "old"):
            assert await _identify(tokens, good(), named(path), stays) == "design"
            assert await _identify(tokens, theirs, named(path), stays) == "design"
        assert [url.rpartition("/")[2] for url in asked] == ["old", "stays", "new", "old"]

    run(test)


def test_while_an_issuer_hangs_its_last_keys_serve_at_once() -> None:
    """Behind a fetch that failed, nobody waits for the next one, though the keys are old."""
    end, text = Endpoint(jwk_set(ONE.jwk())), good()

    async def test() -> None:
        tokens, known = end.tokens(), by_url()
        assert await outcome(tokens, text, known) == "design"
        end.keys = None
        end.now += QUIET + 1
        assert await outcome(tokens, text, known) == "design"
        assert end.fetched == 2
        end.hangs = True
        end.now += RETRY + 1
        async with asyncio.timeout(5):
            while end.fetched < 3:
                assert await outcome(tokens, text, known) == "design"
                await asyncio.sleep(0)
            assert await outcome(tokens, text, known) == "design"

    run(test)


@pytest.mark.parametrize("failure", [EOFError("x"), ValueError("x"), ExceptionGroup("x", [OverflowError("x")])])
def test_however_a_fetch_breaks_off_the_last_keys_serve(failure: Exception) -> None:
    """Whatever a library raises, waited for or behind a request, is told by its kind, and refuses nobody."""
    end = Endpoint(jwk_set(ONE.jwk()))

    async def broken(url: str) -> bytes:
        if end.fetched:
            end.fetched += 1
            raise failure
        return await end.fetch(url)

    async def test() -> None:
        told: list[tuple[str, str]] = []
        tokens = Tokens(broken, failed=lambda *what: told.append(what), clock=lambda: end.now)
        assert await outcome(tokens, good(), by_url()) == "design"
        for quiet in (REFRESH + 1, QUIET + 1):
            end.now += quiet
            assert await outcome(tokens, good(), by_url()) == "design"
            async with asyncio.timeout(5):
                while len(told) < end.fetched - 1 or not told:  # noqa: ASYNC110  no event tells of it
                    await asyncio.sleep(0.001)
        assert told == [("corp", type(failure).__name__)] * 2

    run(test)


def test_a_garbled_key_set_takes_the_place_of_no_good_one() -> None:
    """What cannot be read is as if nothing had come."""
    end = Endpoint(jwk_set(ONE.jwk()))

    async def test() -> None:
        tokens, known = end.tokens(), by_url()
        assert await outcome(tokens, good(), known) == "design"
        end.keys = b"<html>maintenance</html>"
        end.now += AGAIN + 1
        assert await outcome(tokens, good("new"), known) == "token_invalid"
        assert await outcome(tokens, good(), known) == "design"

    run(test)


def test_a_slow_issuer_holds_up_nobody_else() -> None:
    """While one issuer's set is being fetched, tokens of others and of keys that are known go through."""
    began, release = asyncio.Event(), asyncio.Event()

    async def slow(url: str) -> bytes:
        if url.startswith("https://slow"):
            began.set()
            await release.wait()
        return jwk_set(ONE.jwk())

    async def test() -> None:
        tokens = Tokens(slow, failed=_ignored)
        sluggish = replace(by_url(name="slow", issuer="https://slow.example"), jwks_url="https://slow.example/jwks")
        text = token(claims(iss="https://slow.example"), header(kid="one"))
        waiting = asyncio.create_task(_identify(tokens, text, by_url(), sluggish))
        await began.wait()
        assert await _identify(tokens, good(), by_url(), sluggish) == "design"
        assert not waiting.done()
        release.set()
        assert await waiting == "design"

    run(test)


def test_a_key_set_from_a_file_follows_the_file(tmp_path: Path) -> None:
    """A key added to jwks_file works, one taken out stops working within ten minutes, and age alone refuses nobody."""
    file = tmp_path / "jwks.json"
    file.write_bytes(jwk_set(ONE.jwk()))
    known = issuer(public_key=None, jwks_file=str(file))
    end = Endpoint(None)

    async def test() -> None:
        tokens = end.tokens()
        assert await outcome(tokens, good(), known) == "design"
        file.write_bytes(jwk_set(ONE.jwk(), TWO.jwk("two")))
        end.now += AGAIN + 1
        assert await outcome(tokens, good("two", TWO), known) == "design"
        file.write_bytes(jwk_set(TWO.jwk("two")))
        end.now += REFRESH + 1
        await settled(tokens, good(), known, "token_invalid")
        end.now += 3 * STALE
        assert await outcome(tokens, good("two", TWO), known) == "design"

    run(test)


def test_a_missing_file_is_a_refusal_and_is_told(tmp_path: Path) -> None:
    """Without its file an issuer's tokens are refused, and the operator is told why."""
    end = Endpoint(None)
    known = issuer(public_key=None, jwks_file=str(tmp_path / "none.json"))
    assert refusal(good(), known, tokens=end.tokens()) == "token_invalid"
    assert [name for name, _ in end.failures] == ["corp"]


# Revoking.


def refused_for(text: str, *issuers: JwtIssuer, void: float | None = None, tokens: Tokens | None = None) -> str | None:
    """The reason of its refusal, None where it is taken. void: the team's tokens that were issued before."""
    plain = settings(*issuers)
    teams = {id_: replace(team, tokens_revoked_before=void) for id_, team in plain.teams.items()}
    reader, whole = tokens or Tokens(_never, failed=_ignored), replace(plain, teams=teams)
    try:
        asyncio.run(reader.identify(text, whole, time.time(), message=MESSAGE))
    except AuthenticationFailed as error:
        return error.reason
    return None


def test_a_token_is_revoked_by_its_jti() -> None:
    """The token with that very jti is refused; others, and one without, are not."""
    known = issuer(revoked_tokens=frozenset({"stolen", ""}))
    assert refused_for(token(claims(jti="stolen")), known) == "token_revoked"
    for jti in ("stolen2", "STOLEN", "stole", None):
        assert refused_for(token(claims(jti=jti)), known) is None
    for odd in (["stolen"], {"stolen": 1}, 1, True):
        assert refused_for(token(claims(jti=odd)), known) == "token_invalid"


def test_tokens_are_revoked_by_when_they_were_issued() -> None:
    """Of an issuer or a team, what was issued before that second or says no time is refused, what came later is not."""
    for known, void in ((issuer(revoked_before=NOW - 60.0), None), (issuer(), NOW - 60.0)):
        for iat, reason in (
            (NOW - 3600, "token_revoked"),
            (NOW - 60.5, "token_revoked"),
            (NOW - 61, "token_revoked"),
            (None, "token_revoked"),
            (NOW - 60, None),
            (NOW, None),
        ):
            assert refused_for(token(claims(iat=iat)), known, void=void) == reason, iat


def test_a_teams_revocation_is_counted_for_the_team() -> None:
    """Whose token it was is known by then, and metric and log say so."""
    plain = settings()
    void = replace(plain, teams={"design": replace(plain.teams["design"], tokens_revoked_before=time.time() + 60)})
    with pytest.raises(AuthenticationFailed) as caught:
        asyncio.run(Tokens(_never, failed=_ignored).identify(token(), void, time.time(), message=MESSAGE))
    assert (caught.value.reason, caught.value.team) == ("token_revoked", "design")


def test_a_revoked_token_of_somebody_else_is_wrong_before_it_is_revoked() -> None:
    """Who signs with a wrong key learns of no jti whether it is on the list, not even by the log's reason."""
    known = issuer(revoked_tokens=frozenset({"stolen"}), revoked_before=NOW + 60.0)
    assert refused_for(token(claims(jti="stolen"), sign=TWO.rs256), known) == "token_invalid"


def test_a_key_is_revoked_by_its_kid_though_its_issuer_publishes_it() -> None:
    """Tokens of a revoked key are refused, named or not, without a fetch for them; the set's other keys serve."""
    out = by_url(revoked_keys=frozenset({"one"}))
    end = Endpoint(jwk_set(ONE.jwk(), TWO.jwk("two")))
    assert refused_for(good(), out, tokens=end.tokens()) == "token_revoked"
    assert end.fetched == 0
    assert refused_for(good("two", TWO), out, tokens=end.tokens()) is None
    assert refused_for(token(), out, tokens=Endpoint(jwk_set(ONE.jwk())).tokens()) == "token_revoked"
    unnamed = by_url(revoked_keys=frozenset({"-"}))
    assert refused_for(token(), unnamed, tokens=Endpoint(jwk_set(ONE.jwk(None))).tokens()) == "token_revoked"


def test_a_token_that_names_no_key_is_not_one_of_several() -> None:
    """Where a set has more than one key, a token must say which, be one of them called "None"."""
    several = Endpoint(jwk_set(ONE.jwk("None"), TWO.jwk("two")))
    assert refused_for(token(), by_url(), tokens=several.tokens()) == "token_invalid"


def test_a_revocation_keeps_the_keys_that_were_fetched() -> None:
    """Saved while the issuer is away, it voids what it names, and the other tokens go on."""
    end = Endpoint(jwk_set(ONE.jwk()))

    async def test() -> None:
        tokens = end.tokens()
        assert await outcome(tokens, good(), by_url()) == "design"
        end.keys = None
        revoked = by_url(revoked_tokens=frozenset({"stolen"}))
        stolen = token(claims(jti="stolen"), header(kid="one"))
        assert await outcome(tokens, stolen, revoked) == "token_revoked"
        assert await outcome(tokens, good(), revoked) == "design"
        assert end.fetched == 1

    run(test)


# Over the wire.


def _answer(body: bytes, *lines: str, status: str = "200 OK") -> bytes:
    head = "\r\n".join([f"HTTP/1.1 {status}", *lines, f"Content-Length: {len(body)}", "", ""])
    return head.encode() + body


def test_a_key_set_is_fetched_with_nothing_of_ours() -> None:
    """One GET goes out, with no credential and no cookie, and its body comes back as it was sent."""

    async def test() -> None:
        async with RawServer(answering(_answer(jwk_set(ONE.jwk())))) as server:
            assert await jwks.fetch(f"{server.url}/jwks") == jwk_set(ONE.jwk())
            (request,) = server.requests
            assert request.head.startswith(b"GET /jwks HTTP/1.1\r\n")
            assert not {"authorization", "cookie"} & request.headers.keys()

    run(test)


def test_no_proxy_of_the_environment_stands_between(monkeypatch: pytest.MonkeyPatch) -> None:
    """A proxy that a variable names is not asked: who can set one could sign for every team."""
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:1")

    async def test() -> None:
        async with RawServer(answering(_answer(b"{}"))) as server:
            assert await jwks.fetch(f"{server.url}/jwks") == b"{}"

    run(test)


BAD_ANSWERS = {
    "redirect": _answer(b"", "Location: /elsewhere", status="302 Found"),
    "error": _answer(b"down", status="503 Service Unavailable"),
    "no content": b"HTTP/1.1 204 No Content\r\n\r\n",
    "too large": _answer(b"x" * (MAX_KEY_SET + 1)),
    "cut": b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{",
    "no HTTP": b"hello\r\n\r\n",
    "nothing": b"",
}


@pytest.mark.parametrize("raw", BAD_ANSWERS.values(), ids=BAD_ANSWERS)
def test_an_endpoint_that_does_not_give_a_key_set_is_an_error(raw: bytes) -> None:
    """Redirects are not followed; errors, cut, oversized and broken answers are OSErrors, all of them."""

    async def script(peer: Peer) -> None:
        await peer.read_request()
        await peer.send(raw)

    async def test() -> None:
        async with RawServer(script) as server:
            with pytest.raises(OSError, match=r".+"):
                await jwks.fetch(f"{server.url}/jwks")
            assert server.executed == 1

    run(test)


@pytest.mark.parametrize("host", ["xn--", "a..b", "a" * 70 + ".example"])
def test_a_name_that_no_dns_can_have_is_an_error(host: str) -> None:
    """Told like an issuer that is away, not raised through the request."""

    async def test() -> None:
        with pytest.raises(OSError, match=r".+"):
            await jwks.fetch(f"https://{host}/jwks")

    run(test)


def test_a_compressed_bomb_is_not_unpacked() -> None:
    """Nothing compressed is asked for, and what is sent compressed all the same is not unpacked."""
    packed = gzip.compress(b" " * 5_000_000)

    async def test() -> None:
        async with RawServer(answering(_answer(packed, "Content-Encoding: gzip"))) as server:
            with pytest.raises(OSError, match=r".+"):
                await jwks.fetch(f"{server.url}/jwks")
            assert server.requests[0].headers["accept-encoding"] == "identity"

    run(test)


def test_an_endpoint_that_drips_is_given_up() -> None:
    """The time limit is on the whole fetch: a byte now and then does not stretch it."""

    async def script(peer: Peer) -> None:
        await peer.read_request()
        await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
        while True:
            await peer.send(b" ")
            await asyncio.sleep(0.02)

    async def test() -> None:
        async with RawServer(script) as server:
            began = time.monotonic()
            with pytest.raises(OSError, match="within"):
                await jwks.fetch(f"{server.url}/jwks", limit=0.2)
            assert time.monotonic() - began < 3

    run(test)
