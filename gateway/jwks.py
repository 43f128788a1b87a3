"""Fetches the key sets of JWT issuers: bounded in time and size, from the config's addresses alone."""

import asyncio

import httpx

from gateway.tokens import MAX_KEY_SET

#: Seconds for the whole fetch: httpx's own limits are on each step, and a byte now and then would pass them all.
_LIMIT = 5.0


async def fetch(url: str, *, limit: float = _LIMIT) -> bytes:
    """The bytes at `url`, as sent. No redirect is followed, no proxy or credential of the environment is used.

    limit: seconds in all. Raises OSError for whatever goes wrong: the caller serves on with the keys it has.
    """
    headers = {"accept": "application/json", "accept-encoding": "identity"}
    try:
        async with (
            asyncio.timeout(limit),
            httpx.AsyncClient(trust_env=False, follow_redirects=False, timeout=limit) as client,
            client.stream("GET", url, headers=headers) as answer,
        ):
            if answer.status_code != httpx.codes.OK:
                raise OSError(f"the issuer answered {answer.status_code}")
            if answer.headers.get("content-encoding", "identity") != "identity":
                raise OSError("the issuer answered in an encoding that was not asked for")
            raw = b""
            async for piece in answer.aiter_raw():
                raw += piece
                if len(raw) > MAX_KEY_SET:
                    raise OSError("the key set is too large")
            return raw
    except TimeoutError as exc:
        raise OSError(f"the issuer did not answer within {limit} s") from exc
    except (httpx.HTTPError, httpx.InvalidURL, UnicodeError) as exc:  # the last, of a name that no DNS can have
        raise OSError(type(exc).__name__) from exc
