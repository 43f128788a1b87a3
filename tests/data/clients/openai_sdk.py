"""Calls with OpenAI's SDK for Python, of whichever version is found: a line of JSON in, a line of JSON out.

Each line is a list of calls that are made at once: ``[{"call": "generate", "key": …, "headers": {…}, "order": {…}}]``;
an edit names its file: ``{"call": "edit", "image": "a.png", "order": {…}}``. The address comes from OPENAI_BASE_URL or
stands with the call. The answer is a list of what came of each.
"""

import json
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any

import openai


def outcome(request: dict[str, Any]) -> dict[str, Any]:
    # No certificates are loaded: there is no TLS on the way, and it costs a tenth of a second each time.
    http = openai.DefaultHttpxClient(verify=False)
    base_url, headers = request.get("base_url"), request.get("headers")
    more = {"timeout": request["timeout"]} if "timeout" in request else {}
    with (
        openai.OpenAI(
            api_key=request["key"], base_url=base_url, default_headers=headers, http_client=http, **more
        ) as client,
        ExitStack() as files,
    ):
        try:
            if request["call"] == "generate":
                answer = client.images.generate(**request["order"])
            else:
                image = files.enter_context(open(request["image"], "rb"))  # noqa: PTH123  # as a team's program would
                answer = client.images.edit(image=image, **request["order"])
        except openai.APIStatusError as error:
            return {"status": error.status_code, "code": error.code, **told(error)}
        except (openai.APIError, ValueError) as error:  # no answer, or one that cannot be read
            return told(error)
        return {"status": 200, "images": len(answer.data or [])}


def told(error: Exception) -> dict[str, Any]:
    return {"error": type(error).__name__, "message": str(error)}


for line in sys.stdin:
    calls = json.loads(line)
    with ThreadPoolExecutor(max(1, len(calls))) as pool:
        print(json.dumps(list(pool.map(outcome, calls))), flush=True)
