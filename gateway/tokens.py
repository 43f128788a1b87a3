"""JWTs from the config's issuers (RFC 7519), read as RFC 8725 advises. The only importer of jwt.

An issuer is bound to one family of algorithms and to its own keys; a token chooses neither. Before the library sees a
token its form, its header and its claims pass the strict JSON reader, and headers that would have a key or a meaning
fetched from elsewhere are refused. What the config revokes, keys by kid and tokens by jti or by when they were issued,
is asked at each request, so that a saved change binds the next one. Every flaw gives the same 401; which it was stands
in log and metric alone.
"""

import asyncio
import base64
import json
import math
import re
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jwt
from jwt import PyJWK

from gateway.core import jsonbody
from gateway.core.catalog import JwtIssuer, Key, Settings
from gateway.core.errors import AuthenticationFailed, GatewayError, TeamUnknown

MAX_TOKEN = 8 * 1024  #: characters
MAX_KEYS = 20  #: in a key set
MAX_KEY_SET = 64 * 1024  #: bytes
LEEWAY = 30  #: seconds that two clocks may differ
LIFETIME = 24 * 3600  #: seconds that a token may be valid in all
REFRESH = 600.0  #: seconds after which a fetched key set is fetched again; one from a file is read again after AGAIN
QUIET = 1200.0  #: seconds without a fetch, for want of tokens, after which the next token waits for one
STALE = 24 * 3600.0  #: seconds that a key set serves on while it cannot be fetched
AGAIN = 60.0  #: seconds between two fetches at least, whatever tokens ask for
RETRY = 5.0  #: the same behind a fetch that failed, or that nobody waited for to its end

_FORM = re.compile(r"([A-Za-z0-9_-]+)\.([A-Za-z0-9_-]+)\.[A-Za-z0-9_-]+")
_KID = re.compile(r"[A-Za-z0-9._-]{1,128}")
_TEAM = re.compile(r"[a-z0-9-]{1,63}")

#: Headers by which a token would bring its own key, or its own reading.
_FOREIGN = frozenset({"crit", "b64", "zip", "jku", "jwk", "x5u", "x5c", "enc"})
_TYPES = frozenset({"jwt", "at+jwt", "application/jwt", "application/at+jwt"})

#: key type and curve -> algorithms it may serve
_FITTING = {
    ("RSA", None): ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512"),
    ("EC", "P-256"): ("ES256",),
    ("EC", "P-384"): ("ES384",),
    ("EC", "P-521"): ("ES512",),
    ("OKP", "Ed25519"): ("EdDSA",),
}


class KeySetError(Exception):
    """A key set that cannot be used, and why."""


class _Revoked(Exception):
    """The config says that this token, or the key it is signed with, is void."""


@dataclass(frozen=True, slots=True)
class PublicKey:
    """One of a key set, with the algorithms that it may serve: the one its set names for it, or all of its type."""

    key: Any
    algorithms: tuple[str, ...]


@dataclass(slots=True)
class _KeySet:
    """An issuer's keys by kid. fetched: when they came. asked: when a fetch last ended, well or not. due: when they may
    be fetched again.
    """

    keys: Mapping[str, "PublicKey"] = field(default_factory=dict)
    fetched: float | None = None
    asked: float = -math.inf
    due: float = -math.inf
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)


class Tokens:
    """Whose a token is. fetch(url) gives a key set's bytes within its own time limit, or raises OSError.

    failed(issuer, why) is told of a key set that could not be had. clock: seconds, monotonic, for the age of key sets.
    """

    def __init__(
        self,
        fetch: Callable[[str], Awaitable[bytes]],
        *,
        failed: Callable[[str, str], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._fetch = fetch
        self._failed = failed
        self._clock = clock
        # By where they come from, so that a set outlives a change of anything else about its issuer.
        self._sets: dict[str, _KeySet] = {}
        self._refreshes: set[asyncio.Task[None]] = set()

    async def identify(self, token: str, settings: Settings, now: float, *, message: str) -> Key:
        """The key that a token stands for: its team, its issuer as the id. now: unix seconds.

        Raises AuthenticationFailed with `message`, TeamUnknown for a good token of no team in the config.
        """
        try:
            header, claims, issuer = _opened(token, settings)
            key = await self._key(issuer, header, settings)
            claims = jwt.decode(
                token,
                key,
                algorithms=[str(header["alg"])],
                audience=issuer.audience,
                issuer=issuer.issuer,
                leeway=LEEWAY,
                options={"require": ["exp", "iss", "aud"], "enforce_minimum_key_length": True},
            )
            _check_lifetime(claims, now)
            _check_revoked(issuer, claims)
        except _Revoked as exc:
            raise AuthenticationFailed(message, reason="token_revoked") from exc
        except jwt.ExpiredSignatureError as exc:
            raise AuthenticationFailed(message, reason="token_expired") from exc
        except (jwt.PyJWTError, GatewayError, ValueError, TypeError, KeyError, OverflowError, KeySetError) as exc:
            raise AuthenticationFailed(message, reason="token_invalid") from exc
        team = claims.get(issuer.team_claim)
        if not isinstance(team, str) or not _TEAM.fullmatch(team) or team not in settings.teams:
            raise TeamUnknown(f"The token's claim {issuer.team_claim} names no team of this gateway.")
        if _issued_before(claims, settings.teams[team].tokens_revoked_before):
            raise AuthenticationFailed(message, reason="token_revoked", team=team)
        return Key(team=team, id=f"jwt-{issuer.name}", digest=b"")

    async def _key(self, issuer: JwtIssuer, header: Mapping[str, object], settings: Settings) -> Any:
        if issuer.secret is not None:
            return issuer.secret.reveal()
        if issuer.public_key is not None:
            return issuer.public_key
        kid = header.get("kid", "")
        if not isinstance(kid, str):
            raise KeySetError("the token's kid is no text")
        if kid in issuer.revoked_keys:  # no fetch for it
            raise _Revoked
        known = await self._known(issuer, settings, kid)
        if "kid" not in header and len(known.keys) == 1:
            kid = next(iter(known.keys))
            if kid in issuer.revoked_keys:
                raise _Revoked
        public = known.keys[kid]
        if header["alg"] not in public.algorithms:
            raise KeySetError("the key does not serve this algorithm")
        return public.key

    async def _known(self, issuer: JwtIssuer, settings: Settings, kid: str) -> _KeySet:
        """The issuer's keys: renewed behind the request's back, but fetched before it if there are none, this one is
        unknown, or nobody has asked for so long that it may have been withdrawn.
        """
        known = self._sets.get(_source(issuer))
        if known is None:  # the config has changed, so it may name others no more
            named = {_source(each) for each in settings.jwt_issuers}
            self._sets = {source: kept for source, kept in self._sets.items() if source in named}
            known = self._sets[_source(issuer)] = _KeySet()
        age = self._age(known)
        if age > STALE or self._clock() - known.asked > QUIET or (kid and kid not in known.keys):
            await self._refresh(issuer, known)
            age = self._age(known)
        elif age > (AGAIN if issuer.jwks_url is None else REFRESH) and not known.lock.locked():
            task = asyncio.create_task(self._refresh(issuer, known))
            self._refreshes.add(task)
            task.add_done_callback(self._refreshes.discard)
        if age > STALE:
            raise KeySetError("no key set")
        return known

    def _age(self, known: _KeySet) -> float:
        return math.inf if known.fetched is None else self._clock() - known.fetched

    async def _refresh(self, issuer: JwtIssuer, known: _KeySet) -> None:
        """One fetch for all who wait, and none so soon after another: unknown kids cost the issuer nothing."""
        async with known.lock:
            now = self._clock()
            if now < known.due:
                return
            wait = RETRY
            try:
                if issuer.jwks_url is not None:
                    raw = await self._fetch(issuer.jwks_url)
                else:
                    raw = await asyncio.to_thread(Path(issuer.jwks_file or "").read_bytes)
                known.keys, known.fetched, wait = key_set(raw), now, AGAIN
            except (OSError, KeySetError) as exc:
                self._failed(issuer.name, f"{type(exc).__name__}: {exc}")
            except Exception as exc:  # noqa: BLE001  whatever a library meets on its way, the last keys serve on
                self._failed(issuer.name, type(exc).__name__)
            finally:
                # From its end on: it may take as long as RETRY, and those who waited would each begin another.
                known.asked = self._clock()
                known.due = known.asked + wait


def _source(issuer: JwtIssuer) -> str:
    return issuer.jwks_url or f"file:{issuer.jwks_file}"


def mint(issuer: JwtIssuer, team: str, key: str, *, algorithm: str, jti: str, now: int, lifetime: int) -> str:
    """A token of that issuer for the team. key: the shared secret, or a private key in PEM. jti: what it may be revoked
    by. lifetime: seconds.

    Raises ValueError where the key does not go with the algorithm.
    """
    whom = {"iss": issuer.issuer, "aud": issuer.audience, issuer.team_claim: team}
    claims = {**whom, "jti": jti, "iat": now, "exp": now + lifetime}
    try:
        return jwt.encode(claims, key, algorithm=algorithm)
    except (jwt.PyJWTError, ValueError, TypeError) as exc:
        raise ValueError(f"the key does not go with {algorithm}") from exc


def _opened(token: str, settings: Settings) -> tuple[dict[str, object], dict[str, Any], JwtIssuer]:
    """Header, claims and issuer of a token whose signature is not yet verified."""
    form = _FORM.fullmatch(token) if len(token) <= MAX_TOKEN else None
    if form is None:
        raise ValueError("no compact JWS")
    header, claims = (jsonbody.decode(_decoded(part)) for part in form.groups())
    issuer = next((each for each in settings.jwt_issuers if each.issuer == claims.get("iss")), None)
    if issuer is None:
        raise ValueError("unknown issuer")
    if _FOREIGN & header.keys() or header.get("alg") not in issuer.algorithms:
        raise ValueError("a header that is not taken")
    kind, kid = header.get("typ", "JWT"), header.get("kid", "-")
    if not isinstance(kind, str) or kind.lower() not in _TYPES:
        raise ValueError("another type of token")
    if not isinstance(kid, str) or not _KID.fullmatch(kid):
        raise ValueError("an odd kid")
    return header, claims, issuer


def _decoded(part: str) -> bytes:
    return base64.urlsafe_b64decode(part + "=" * (-len(part) % 4))


def _check_lifetime(claims: Mapping[str, Any], now: float) -> None:
    began = claims.get("iat", now)
    if not isinstance(began, int | float) or claims["exp"] - began > LIFETIME + LEEWAY:
        raise ValueError("valid for too long")


def _check_revoked(issuer: JwtIssuer, claims: Mapping[str, Any]) -> None:
    if claims.get("jti") in issuer.revoked_tokens or _issued_before(claims, issuer.revoked_before):
        raise _Revoked


def _issued_before(claims: Mapping[str, Any], moment: float | None) -> bool:
    """Whether the token may have been issued before; one that does not say when, may. moment: unix seconds."""
    return moment is not None and float(claims.get("iat", -math.inf)) < moment


def key_set(raw: bytes) -> dict[str, PublicKey]:
    """Read a JWK set (RFC 7517). Raises KeySetError: a set with shared secrets, repeated or odd kids, is used not at
    all, for nobody can say what its keys are for.
    """
    if len(raw) > MAX_KEY_SET:
        raise KeySetError("too large")
    try:
        entries = jsonbody.decode(raw)["keys"]
        if not isinstance(entries, list) or not 1 <= len(entries) <= MAX_KEYS:
            raise KeySetError("no list of keys, or too many")
        found: dict[str, PublicKey] = {}
        for entry in entries:
            kind, curve, kid = entry["kty"], entry.get("crv"), entry.get("kid", "-")
            if (kind, curve) not in _FITTING or "d" in entry:
                raise KeySetError("a key that is no public signing key")
            if not isinstance(kid, str) or not _KID.fullmatch(kid) or kid in found:
                raise KeySetError("a kid that is odd or stands twice")
            if entry.get("use", "sig") == "sig":
                found[kid] = _public_key(entry, _FITTING[kind, curve])
    except (GatewayError, jwt.PyJWTError, KeyError, TypeError, AttributeError, ValueError) as exc:
        raise KeySetError("malformed") from exc
    return found


def _public_key(entry: Mapping[str, object], fitting: tuple[str, ...]) -> PublicKey:
    named = entry.get("alg")
    if named is not None and named not in fitting:
        raise KeySetError("a key whose algorithm does not go with its type")
    algorithms = fitting if named is None else (str(named),)
    return PublicKey(PyJWK.from_json(json.dumps(entry), algorithms[0]).key, algorithms)
