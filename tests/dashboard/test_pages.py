"""The dashboard over HTTP, without a browser: its figures are those of the commands, and nothing in it is foreign."""

import base64
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import urljoin

import httpx
import pytest
import redis

from tests.dashboard.reading import Page
from tests.dashboard.showing import Showing, running_showing, with_a_past, with_a_present
from tests.support.running import NO_TLS
from tests.support.site import wait_until

PATHS = ("/", "/config", "/teams/design", "/teams/former", "/teams/interns", "/teams/free")

TOKEN = "an-admin-token-of-some-length"


@pytest.fixture(scope="module")
def showing() -> Iterator[Showing]:
    with running_showing(workers=1) as running:
        with_a_past(running)
        with_a_present(running)
        yield running


@pytest.fixture(scope="module")
def pages(showing: Showing) -> dict[str, Page]:
    return {path: Page(showing.get(path).raise_for_status().text) for path in PATHS}


def number(text: str) -> float:
    """As it was before it was made to be read."""
    return float(text.replace(",", "").removeprefix("$"))


def pairs(rows: list[list[str]]) -> dict[str, str]:
    return {row[0]: row[1] for row in rows}


def test_the_overviews_months_are_those_of_usage(showing: Showing, pages: dict[str, Page]) -> None:
    """Images, unknown ones and dollars of this month are what `gateway usage` says, by team and by size and quality;
    a team that has left the config is among them.
    """
    month = f"{showing.today:%Y-%m}"
    for label, names, by in (
        ("Images and cost by team", 1, "team"),
        ("Images and cost by size and quality", 2, "size,quality"),
    ):
        told = showing.told("usage", "--month", month, "--by", by)["rows"]
        expected = {
            tuple(row[name] for name in by.split(",")): (row["images"], row["unknown"], row["usd"]) for row in told
        }
        shown = {
            tuple(cell.split()[0] for cell in row[:names]): tuple(number(cell) for cell in row[names + 2 : names + 5])
            for row in pages["/"].body(label)
        }
        assert {key: values for key, values in shown.items() if values[0]} == expected
    assert "former" in {row[0].split()[0] for row in pages["/"].body("Images and cost by team")}


@pytest.mark.parametrize(("path", "team"), [("/", None), ("/teams/design", "design")])
def test_the_days_are_those_of_usage(showing: Showing, pages: dict[str, Page], path: str, team: str | None) -> None:
    """Each of the last thirty days, today included, has the images and dollars that `gateway usage` gives it."""
    shown = {
        row[0]: (number(row[1]), number(row[2]), number(row[3])) for row in pages[path].body("Images and dollars a day")
    }
    assert len(shown) == 30
    rows = showing.told("usage", "--from", min(shown), "--by", "team,day")["rows"]
    expected = dict.fromkeys(shown, (0.0, 0.0, 0.0))
    for row in rows:
        if team in {None, row["team"]}:
            before = expected[row["day"]]
            facts = (row["images"], row["unknown"], row["usd"])
            expected[row["day"]] = tuple(a + b for a, b in zip(before, facts, strict=True))
    assert {day: pytest.approx(values) for day, values in expected.items()} == shown


def test_today_is_what_the_upstream_made(showing: Showing, pages: dict[str, Page]) -> None:
    """The images of today are those in the upstream's own record, and one whose end nobody knows."""
    rows = pages["/"].body("Images and cost by team")
    assert sum(number(row[1]) for row in rows) == showing.simulator.record.totals.images_made + 1


def test_rules_stand_as_the_store_has_them(showing: Showing, pages: dict[str, Page]) -> None:
    """Every rule of a team is there with what is used, left and when it resets, as `gateway quota show` says."""
    words = pages["/teams/design"].words
    rules = showing.told("quota", "show", "--team", "design")["rules"]
    assert len(rules) == 6
    for rule in rules:
        used = f"${rule['used']:.2f}" if rule["unit"] == "usd" else rule["used"]
        limit = f"${rule['limit']:.2f}" if rule["unit"] == "usd" else rule["limit"]
        assert re.search(rf"{rule['rule']} (shadow: refuses nobody )?{re.escape(f'{used} of {limit}')}", words), rule
    assert "10 of 12 images per day, hd only 83 % · 2 images left · resets" in words


def test_a_rule_that_will_not_last_says_until_when(pages: dict[str, Page]) -> None:
    """A rule whose window is well under way and most of which is used says when it ends at this rate, one that is
    hardly used does not.
    """
    words = pages["/teams/design"].words
    assert re.search(
        r"images-day-hd 10 of 12 .*? resets \S+ \S+ \S+ · at this rate exhausted today about \d\d:00", words
    )
    (day,) = re.findall(r"images-day 18 of 60 images per day .*? (?=images-day-hd)", words)
    assert "exhausted" not in day


def test_what_needs_a_look_stands_on_top(pages: dict[str, Page]) -> None:
    """A rule that is used up and one that is near to it are told of, and where to read more."""
    words = pages["/"].words
    assert "marketing: 6 images of 6 images used (rule images-day), free again" in words
    assert "design: 10 images of 12 images used (rule images-day-hd)" in words
    assert ("a", {"href": "./teams/marketing"}) in pages["/"].tags


def test_refusals_say_why_and_what_would_help(showing: Showing, pages: dict[str, Page]) -> None:
    """A team's last refusals are those of `gateway why`, with the rule and the remedy."""
    told = showing.told("why", "--team", "design")
    assert told
    for refusal in told:
        for sentence in (refusal["id"], refusal["code"], *refusal["would_help"]):
            assert sentence in pages["/teams/design"].words
    assert "10 of 12 images used, 4 asked for" in pages["/teams/design"].words


def test_orders_are_counted_as_they_ended(pages: dict[str, Page]) -> None:
    """The host's orders stand by outcome, over all teams and of one, and the accounts' answers by status."""
    assert pairs(pages["/"].body("Requests by how they ended")) == {
        "ok": "9", "refused_quota": "2", "refused_policy": "1", "unknown": "1", "upstream_error": "1",
    }  # fmt: skip
    assert pairs(pages["/teams/design"].body("Requests by how they ended")) == {
        "ok": "3", "refused_quota": "1",
    }  # fmt: skip
    assert pages["/"].body("Accounts at the upstream") == [["main", "0", "1,000", "200: 9, 500: 1, 504: 1"]]
    times = {row[0]: row[1:] for row in pages["/"].body("Times of orders")}
    assert all(re.fullmatch(r"\d+\.\d m?s", value) for row in times.values() for value in row)


def test_words_of_people_stay_words(pages: dict[str, Page]) -> None:
    """What an administrator writes is shown as it is written, and never read as HTML."""
    assert "Suspended: budget <b>review</b>" in pages["/teams/interns"].words
    assert all(tag != "b" for page in pages.values() for tag, _ in page.tags)


@pytest.mark.parametrize("path", PATHS)
def test_nothing_is_foreign_or_inline(showing: Showing, path: str) -> None:
    """A page has no script, style or handler of its own, and all it loads is there, from the gateway itself."""
    answer = showing.get(path)
    policy = answer.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert answer.headers["cache-control"] == "no-store"
    loaded = set()
    for tag, attributes in Page(answer.text).tags:
        assert not [name for name in attributes if name == "style" or name.startswith("on")], (tag, attributes)
        assert tag != "style"
        if tag in {"script", "link", "img"}:
            loaded.add(attributes.get("src") or attributes["href"] or "")
    assert len(loaded) == 6
    for address in loaded:
        found = httpx.get(urljoin(str(answer.url), address), verify=NO_TLS)
        assert found.status_code == 200
        assert found.headers["x-content-type-options"] == "nosniff"
        assert "immutable" in found.headers["cache-control"]


def test_every_link_leads_somewhere(showing: Showing, pages: dict[str, Page]) -> None:
    """Links within the pages are answered, also from a page below another."""
    links = {
        urljoin(f"{showing.page}{path}", attributes["href"] or "")
        for path, page in pages.items()
        for tag, attributes in page.tags
        if tag == "a"
    }
    assert len(links) > 8
    assert {httpx.get(link, verify=NO_TLS).status_code for link in links} == {200}


def test_what_is_not_there_is_not_found(showing: Showing) -> None:
    """Unknown teams and files, and ways out of the folder, are 404."""
    for path in ("/teams/nobody", "/static/nothing.js", "/static/..%2Fdashboard.py", "/static/VENDORED.json"):
        assert showing.get(path).status_code == 404, path


def test_many_who_look_cost_the_store_one_look(showing: Showing) -> None:
    """Forty screens at once are served from a few readings of the store, and not from forty."""

    def calls() -> float:
        return showing.gateway.metric("gateway_store_duration_seconds_count", operation="usage")

    showing.get("/")
    before = calls()
    scrape = calls() - before
    before = calls()
    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(lambda _: showing.get("/").status_code, range(40))) == {200}
    readings = (calls() - before - scrape) / 3  # rules, teams, tables
    assert readings < 20


def test_without_the_store_the_pages_still_say_what_they_know() -> None:
    """While the store is away every page is there and says so; its figures are not made up, nor is half of what is
    there left out just as the store goes.
    """
    with running_showing(workers=1, teams={"free": {}}) as showing:
        assert "None that the store still has" in showing.get("/teams/free").text
        with redis.Redis.from_url(showing.store) as store:
            store.shutdown(nosave=True)
        assert "None that the store still has" not in showing.get("/teams/free").text
        wait_until(lambda: "The store cannot be reached" in showing.get("/").text)
        for path in ("/", "/config", "/teams/free"):
            page = Page(showing.get(path).raise_for_status().text)
            assert "The store cannot be reached" in page.words
            assert "Orders are refused until it is back" in page.words
            assert "Images today" not in page.words


def test_the_token_opens_the_pages_to_programs_and_to_browsers() -> None:
    """With a token the pages and metrics ask for it, as a Bearer or as any user's password, and health does not."""
    basic = base64.b64encode(f"anybody:{TOKEN}".encode()).decode()
    wrong = base64.b64encode(b"anybody:another-token").decode()
    with running_showing(workers=1, token=TOKEN, teams={"free": {}}) as showing:
        for path in ("/", "/config", "/teams/free", "/metrics"):
            refused = showing.get(path)
            assert refused.status_code == 401
            schemes = refused.headers.get_list("www-authenticate")
            assert [scheme.split()[0] for scheme in schemes] == ["Bearer", "Basic"]
            assert "free" not in refused.text
            for credentials in (f"Bearer {TOKEN}", f"bearer {TOKEN}", f"Basic {basic}"):
                assert showing.get(path, authorization=credentials).status_code == 200, credentials
            bad = ("Bearer", f"Bearer {TOKEN}x", TOKEN, f"Basic {wrong}", "Basic", "Basic %%%", "Basic YQ==")
            for credentials in bad:
                assert showing.get(path, authorization=credentials).status_code == 401, credentials
        assert showing.get("/livez").status_code == 200
