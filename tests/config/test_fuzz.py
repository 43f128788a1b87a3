"""Whatever stands in the file, the answer is a document or `ConfigErrors`, and no secret is repeated."""

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateway.config.compile import compile_settings
from gateway.config.file import parse
from gateway.config.problems import ConfigErrors
from tests.config.conftest import PRICED

pytestmark = pytest.mark.slow

CONFIG = f"""{PRICED}
timezone: Europe/Berlin
plans: {{small: {{quotas: [{{images: 100, per: day}}, {{concurrent: 4, wait: 30s}}]}}}}
teams:
  design:
    plan: small
    models: [dall-e-3]
    keys: [{{id: ci, sha256: "{"ab" * 32}", expires: 2030-06-30}}]
    quotas:
      - {{usd: 40, per: month, warn_at: [50%, 80%]}}
      - {{images: 20, per: day, size: [1792x1024], name: wide}}
      - {{images: 200, per: day, adds_to: images-day, until: 2030-01-31}}
organization: {{quotas: [{{usd: 420, per: month}}]}}
jwt_issuers: {{corp: {{issuer: i, audience: a, jwks_url: https://id.example.com/jwks}}}}
"""
WORDS = sorted(set(CONFIG.replace("{", " ").replace("}", " ").replace("[", " ").replace("]", " ").split()))
SECRET = "S3cr3tS3cr3tS3cr3tS3cr3t"
PIECES = st.sampled_from(
    [
        *WORDS,
        *("null", "true", "-1", "1e3", "1.5", "0x1", ".inf", "''", "{}", "[]", "[[1]]", "{a: 1}", "? ", "- ", "\t"),
        *("&a", "*a", "<<: *a", "!!int", "!x", "|", ">", "%", "@", "'", '"', "#", "---", "...", "\n", "\u2028", "é"),
        *("%YAML 1.1", "0000-00-00", "9999-12-31", "../../etc", "env:", "file:/", "file:/dev/null", "0" * 64),
    ]
)
TOKENS = CONFIG.split(" ")

bounded = settings(max_examples=250, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def judge(text: str) -> str:
    """Read a text and all that is made of it; return what was said."""
    try:
        document = parse(text.encode(), Path("c.yaml"))
        compile_settings(document, {"KEY": "x"})
    except ConfigErrors as exc:
        return str(exc)
    return "\n".join(map(str, document.warnings(0)))


@bounded
@given(st.lists(st.tuples(st.integers(0, len(TOKENS) - 1), PIECES), min_size=1, max_size=4))
def test_a_changed_file_is_read_or_refused(changes: list[tuple[int, str]]) -> None:
    """Words replaced by others never raise anything but `ConfigErrors`."""
    tokens = list(TOKENS)
    for index, piece in changes:
        tokens[index] = piece
    judge(" ".join(tokens))


@bounded
@given(st.text(max_size=80) | st.lists(PIECES, max_size=20).map(" ".join))
def test_any_text_is_read_or_refused(text: str) -> None:
    """Text that never was a config, alone and at the end of one, is refused in order."""
    judge(text.encode("utf-8", "ignore").decode())
    judge(CONFIG + text.encode("utf-8", "ignore").decode())


@bounded
@given(
    st.integers(0, len(TOKENS) - 1),
    st.sampled_from(["{}", "'{}'", '"{}"', "{}:", "*{}", "sk-{}", "{} x", "!{}", "&{} x"]),
)
def test_a_pasted_secret_is_never_repeated(index: int, form: str) -> None:
    """A secret in the place of any word of the file, as value, key, alias or tag, stands in no message."""
    tokens = list(TOKENS)
    tokens[index] = form.format(SECRET)
    assert SECRET.lower() not in judge(" ".join(tokens)).lower()
