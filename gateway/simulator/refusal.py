"""The error an image request is refused with, in the shape the API's clients read."""

import json


class Refusal(Exception):
    """Nothing is made. `param` names the request's field, or is None where no single one is to blame."""

    def __init__(
        self, message: str, *, status: int = 400, code: str = "invalid_value", param: str | None = None
    ) -> None:
        super().__init__(message)
        self.message = message
        self.status = status
        self.code = code
        self.param = param

    def body(self) -> bytes:
        """``{"error": {"message", "type", "param", "code"}}``"""
        kind = "invalid_request_error" if self.status < 500 else "server_error"
        error = {"message": self.message, "type": kind, "param": self.param, "code": self.code}
        return json.dumps({"error": error}).encode()


class Unfinished(Refusal):
    """The body ends before its own grammar says it may: as little a request as one whose connection broke."""
