"""Clients that people use, with the retries they have by default: OpenAI's SDKs, the Vercel AI SDK, curl.

All calls of one `ask` are made at once. A call carries a trace of its own (W3C), which the gateway logs with each
request, so that its requests can be counted whatever the client tells of them.
"""

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

from tests.support import packages

#: Who decides alike on what to send again.
Family = Literal["openai", "ai", "curl"]

_END_LIMIT = 10.0  # seconds


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """An order. url: ends in /v1. fields: beside the prompt. image: of an edit. timeout: the client's own, seconds."""

    url: str
    key: str
    prompt: str
    fields: Mapping[str, object] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    image: Path | None = None
    timeout: float | None = None

    @property
    def trace(self) -> str:
        return hashlib.sha256(self.prompt.encode()).hexdigest()[:32]

    @property
    def all_headers(self) -> dict[str, str]:
        return {"traceparent": f"00-{self.trace}-{self.trace[:16]}-01", **self.headers}


@dataclass(frozen=True, slots=True)
class Told:
    """What a call came to, as the client tells it. status: of the last answer, None without one."""

    status: int | None
    code: str | None = None
    images: int = 0
    error: str = ""
    message: str = ""


class Client(Protocol):
    @property
    def name(self) -> str: ...
    @property
    def family(self) -> Family: ...
    def ask(self, calls: Sequence[Call]) -> list[Told]: ...


@dataclass(frozen=True, slots=True)
class Program:
    """A client that runs as a program of tests/data/clients: a line of calls in, a line of what they came to out."""

    name: str
    family: Family
    form: Callable[[Call], dict[str, Any]]
    process: "subprocess.Popen[str]"

    def ask(self, calls: Sequence[Call]) -> list[Told]:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps([self.form(call) for call in calls]) + "\n")
        self.process.stdin.flush()
        outcomes = json.loads(self.process.stdout.readline())
        return [_told(outcome) for outcome in outcomes]


def _told(outcome: Mapping[str, Any]) -> Told:
    images = outcome.get("images", outcome.get("data", ()))
    if "error" not in outcome:
        return Told(200, images=images if isinstance(images, int) else len(images))
    return Told(outcome.get("status"), outcome.get("code"), 0, outcome["error"], outcome["message"])


def _for_openai(call: Call) -> dict[str, Any]:
    order = {"prompt": call.prompt, **call.fields}
    form: dict[str, Any] = {"base_url": call.url, "key": call.key, "headers": call.all_headers, "order": order}
    if call.timeout is not None:
        form["timeout"] = call.timeout
    if call.image is None:
        return {**form, "call": "generate"}
    return {**form, "call": "edit", "upload": "buffer", "image": str(call.image)}


def _for_ai_sdk(call: Call) -> dict[str, Any]:
    own = {name: call.fields[name] for name in ("model", "n", "size") if name in call.fields}
    options = {name: value for name, value in call.fields.items() if name not in own and name != "response_format"}
    form = {"base_url": call.url, "key": call.key, "headers": call.all_headers, "text": call.prompt, **own}
    if call.image is None:
        return {**form, "provider": "openai", "providerOptions": {"openai": options}}
    options["response_format"] = "b64_json"
    return {**form, "provider": "compatible", "providerOptions": {"gateway": options}, "image": str(call.image)}


@dataclass(frozen=True, slots=True)
class Curl:
    """curl with three retries. It reads Retry-After and would wait till midnight for one; so its time is bounded."""

    name: str = "curl"
    options: tuple[str, ...] = ()
    family: Family = "curl"

    def ask(self, calls: Sequence[Call]) -> list[Told]:
        with ThreadPoolExecutor(len(calls)) as pool:
            return list(pool.map(self._one, calls))

    def _one(self, call: Call) -> Told:
        words = ["curl", "--silent", "--show-error", "--retry", "3", "--retry-max-time", "30", *self.options]
        words += ["--write-out", "\n%{http_code}", "--header", f"Authorization: Bearer {call.key}"]
        for name, value in call.all_headers.items():
            words += ["--header", f"{name}: {value}"]
        if call.timeout is not None:
            words += ["--max-time", str(call.timeout)]
        order = {"prompt": call.prompt, **call.fields}
        if call.image is None:
            words += [f"{call.url}/images/generations", "--header", "Content-Type: application/json", "--data", "@-"]
        else:
            words.append(f"{call.url}/images/edits")
            words += ["--form", f"image=@{call.image}"]
            for name, text in order.items():
                words += ["--form-string", f"{name}={text}"]
        ended = subprocess.run(words, input=json.dumps(order), capture_output=True, text=True, timeout=90, check=False)
        answers, _, status = ended.stdout.rpartition("\n")
        if ended.returncode == 0 and status == "200":  # it prints the answers before, too
            return Told(200, images=len(json.loads(answers[answers.rindex('{"created"') :])["data"]))
        last = answers[answers.rfind('{"error"') :] if '{"error"' in answers else "{}"
        error = json.loads(last).get("error", {})
        return Told(int(status) or None, error.get("code"), 0, ended.stderr.strip(), error.get("message", ""))


@contextmanager
def openai_python(*, packages_at: Path | None = None) -> Iterator[Client]:
    """OpenAI's SDK for Python: this environment's, or the one that stands in that folder."""
    name, environ = "openai-python 3", dict(os.environ)
    if packages_at is not None:
        name, environ = "openai-python 2", {**os.environ, "PYTHONPATH": str(packages_at)}
    with _running([sys.executable, str(packages.PROGRAMS / "openai_sdk.py")], environ=environ) as process:
        yield Program(name, "openai", _for_openai, process)


@contextmanager
def all_of_them(folder: Path) -> Iterator[tuple[Client, ...]]:
    """Each of the clients, running. folder: an empty one for what node needs."""
    node = packages.node_folder(folder)
    with ExitStack() as held:
        yield (
            held.enter_context(openai_python(packages_at=packages.openai_2())),
            held.enter_context(openai_python()),
            Program("openai-node 6", "openai", _for_openai, held.enter_context(_running(["node", "openai.mjs"], node))),
            Program("AI SDK 6", "ai", _for_ai_sdk, held.enter_context(_running(["node", "ai_sdk.mjs"], node))),
            Curl(),
            Curl("curl, all errors", ("--retry-all-errors",)),
        )


@contextmanager
def _running(
    command: Sequence[str], folder: Path | None = None, *, environ: Mapping[str, str] = os.environ
) -> Iterator["subprocess.Popen[str]"]:
    process = subprocess.Popen(
        command, cwd=folder, env=environ, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with process:
        try:
            yield process
        finally:
            assert process.stdin is not None
            process.stdin.close()
            try:
                process.wait(_END_LIMIT)
            except subprocess.TimeoutExpired:
                process.kill()
