"""Reading a file: what can be opened, decoded and composed, and what of YAML is understood."""

import os
import threading
from pathlib import Path

import pytest

from gateway.config.file import LARGEST, load, parse
from gateway.config.model import StoreSection
from gateway.config.problems import ConfigErrors, ConfigUnreadable
from gateway.core.keys import make
from tests.config.conftest import SMALLEST, Read


def refusal(data: bytes) -> str:
    """Return the messages that refuse this content."""
    with pytest.raises(ConfigErrors) as caught:
        parse(data, Path("c.yaml"))
    return str(caught.value)


def test_what_cannot_be_opened_is_unreadable(tmp_path: Path) -> None:
    """A missing file and a folder are told apart from a wrong config."""
    for path, reason in ((tmp_path / "none.yaml", "no such file or directory"), (tmp_path, "this is a directory")):
        with pytest.raises(ConfigUnreadable) as caught:
            load(path)
        assert str(caught.value) == f"{path}:1:1: expected a configuration file: {reason}"


def test_a_name_that_no_file_can_have_is_told_as_such(tmp_path: Path) -> None:
    """A name that is too long is an unreadable file, not a fault of the program."""
    with pytest.raises(ConfigUnreadable, match="expected a configuration file: file name too long"):
        load(tmp_path / ("n" * 300))


def test_a_pipe_without_a_writer_holds_nobody_up(tmp_path: Path) -> None:
    """A named pipe that nobody writes into reads as empty."""
    pipe = tmp_path / "c.yaml"
    os.mkfifo(pipe)
    told: list[str] = []

    def read() -> None:
        with pytest.raises(ConfigErrors) as caught:
            load(pipe)
        told.append(str(caught.value))

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    reader.join(30)
    assert told == [f"{pipe}:1:1: the file is empty; config.example.yaml shows what it holds"]


def test_a_pipe_is_read_to_its_end() -> None:
    """What another command writes is read whole, also where it is more than a pipe holds: `check <(command)`."""
    out, into = os.pipe()

    def write() -> None:
        with os.fdopen(into, "wb") as file:
            file.write(b"#" * 300_000 + b"\n" + SMALLEST.encode())

    writer = threading.Thread(target=write)
    writer.start()
    try:
        load(Path(f"/dev/fd/{out}"))
    finally:
        os.close(out)
        writer.join()


def test_a_large_file_is_refused_before_it_is_parsed() -> None:
    """One byte over the limit is too many."""
    assert refusal(b"#" * (LARGEST + 1)) == "c.yaml:1:1: the file is larger than 1024KB"


def test_bytes_that_are_no_text_are_refused_at_their_place() -> None:
    """Latin-1 and control characters are told with line and column."""
    assert refusal(SMALLEST.encode() + b"contact: caf\xe9\n") == (
        "c.yaml:5:13: this is not UTF-8 text; save the file as UTF-8"
    )
    assert refusal(SMALLEST.encode() + b"contact: a\x07b\n") == "c.yaml:5:11: a control character stands here"


def test_a_byte_order_mark_is_no_error() -> None:
    """Editors that write one do no harm."""
    assert parse(b"\xef\xbb\xbf" + SMALLEST.encode(), Path("c.yaml")).config.timezone == "UTC"


@pytest.mark.slow
def test_deep_nesting_ends_in_an_error() -> None:
    """A file of brackets neither hangs nor breaks the parser."""
    assert refusal(b"[" * 50_000) == "c.yaml:1:1: the file is nested too deeply"


def test_aliases_and_merges_are_followed(read: Read) -> None:
    """An anchor may be used again; a merge's keys give way to the mapping's own."""
    document = read("""
plans: {small: {quotas: &small [{images: 1, per: day}]}}
teams:
  a: &a {quotas: *small, contact: first}
  b: {<<: *a, contact: second}
""")
    a, b = document.config.teams["a"], document.config.teams["b"]
    assert a.quotas == b.quotas == document.config.plans["small"].quotas
    assert (a.contact, b.contact) == ("first", "second")


def test_of_several_merged_mappings_the_first_one_counts(read: Read) -> None:
    """A list of merges has the order of YAML's type repository."""
    document = read("""
teams:
  a: &a {unlimited: true, contact: first}
  b: &b {unlimited: true, contact: second, suspended: yes}
  c: {<<: [*a, *b]}
""")
    merged = document.config.teams["c"]
    assert (merged.contact, merged.suspended) == ("first", "yes")


def test_text_stays_text(read: Read) -> None:
    """Words that older YAML takes for booleans or times are text, whatever version the file names."""
    document = read("""
teams: {no: {suspended: on, unlimited: true}, "12": {suspended: 12:30:45, unlimited: true}}
""")
    assert {id_: team.suspended for id_, team in document.config.teams.items()} == {"no": "on", "12": "12:30:45"}


def test_a_pasted_key_is_told_but_not_shown() -> None:
    """One of the gateway's own keys anywhere in the file is an error that does not repeat it."""
    key = make(bytes(range(40)))
    message = refusal(f"{SMALLEST}# {key}\nteams: {{a: {{unlimited: true, suspended: was {key}}}}}\n".encode())
    assert message.count("a key itself stands here") == 2
    assert key not in message


def test_an_error_in_one_part_does_not_hide_another() -> None:
    """Wrong values, missing keys and disagreements come together, each at its line."""
    message = refusal(b"""upstream: {accounts: [{api_key: env:KEY}]}
store: {}
models: {m: {max_n: 0}}
teams:
  a: {}
  b: {plan: big}
""")
    assert message.split("\n") == [
        "c.yaml:1:23: upstream.accounts[0].name: missing; expected: Names the account in metrics and logs",
        f"c.yaml:2:8: store.kind: missing; expected: {StoreSection.model_fields['kind'].description}",
        "c.yaml:3:21: models.m.max_n: must be from 1 to 1000000000, got 0",
        "c.yaml:5:3: teams.a: has neither plan nor quotas; if that is meant, say unlimited: true",
        "c.yaml:6:13: teams.b.plan: unknown plan 'big'; there is none",
    ]
