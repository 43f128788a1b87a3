"""Fetches the key sets of JWT issuers: bounded in time and size, from the config's addresses alone."""

import httpx

from gateway.tokens import MAX_KEY_SET

_LIMIT = 5.0  # seconds


async def fetch(url: str) -> bytes:
    """The bytes at `url`. No redirect is followed, no proxy or credential of the environment is used.

    Raises OSError for whatever goes wrong: the caller serves on with the keys it has.
    """
    try:
        async with (
            httpx.AsyncClient(trust_env=False, follow_redirects=False, timeout=_LIMIT) as client,
            client.stream("GET", url, headers={"accept": "application/json"}) as answer,
        ):
            if answer.status_code != httpx.codes.OK:
                raise OSError(f"the issuer answered {answer.status_code}")
            raw = b""
            async for piece in answer.aiter_bytes():
                raw += piece
                if len(raw) > MAX_KEY_SET:
                    raise OSError("the key set is too large")
            return raw
    except httpx.HTTPError as exc:
        raise OSError(type(exc).__name__) from exc
