"""The dashboard in a real browser: no complaint, live figures, both themes, a phone, the keyboard, a screen reader."""

import re
from collections.abc import Iterator
from typing import Any

import pytest
from playwright.sync_api import Browser, Error, expect

from tests.dashboard.browser import DESK, PHONE, Screen, running_browser, screen
from tests.dashboard.showing import Showing, running_showing, with_a_past, with_a_present
from tests.support import packages
from tests.support.site import wait_until

pytestmark = [pytest.mark.slow, pytest.mark.debian("chromium")]

PATHS = ("/", "/config", "/teams/design", "/teams/former", "/teams/interns")

PATIENCE = 20_000.0  # milliseconds: a few times what a page waits before it fetches itself anew

TOKEN = "an-admin-token-of-some-length"


@pytest.fixture(scope="module")
def showing() -> Iterator[Showing]:
    with running_showing() as running:
        with_a_past(running)
        with_a_present(running)
        yield running


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with running_browser() as running:
        yield running


@pytest.fixture(scope="module")
def axe(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The text of axe-core."""
    folder = packages.node_folder(tmp_path_factory.mktemp("axe") / "browser", packages.PROGRAMS.parent / "browser")
    return (folder / "node_modules" / "axe-core" / "axe.min.js").read_text("utf-8")


def violations(shown: Screen, axe: str) -> list[str]:
    """What axe-core finds, each with the elements concerned."""
    # Playwright evaluates past the page's policy, as a browser's own tools do.
    shown.page.evaluate(f"{axe}; 0")
    found: dict[str, Any] = shown.page.evaluate("axe.run(document, {resultTypes: ['violations']})")
    assert len(found["passes"]) > 20, "axe did not look"
    return [f"{each['id']}: {[node['html'][:200] for node in each['nodes']]}" for each in found["violations"]]


def has_ink(shown: Screen) -> bool:
    """Whether anything is drawn on the page's canvas."""
    count = shown.page.evaluate(
        """() => { const canvas = document.querySelector('.plot canvas');
        const data = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data;
        return data.filter((value, i) => i % 4 === 3 && value > 0).length; }"""
    )
    return int(count) > 1000


@pytest.mark.npm
@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("size", [DESK, PHONE], ids=["desk", "phone"])
def test_every_page_loads_well_and_is_accessible(
    showing: Showing, browser: Browser, axe: str, size: tuple[int, int], theme: Any
) -> None:
    """In both themes, at a desk and on a phone, no page complains, is wider than its screen, or breaks a rule of
    axe-core's; its charts are drawn.
    """
    with screen(browser, size=size, color_scheme=theme) as shown:
        for path in PATHS:
            shown.page.goto(f"{showing.page}{path}", wait_until="networkidle")
            assert shown.page.evaluate("document.documentElement.scrollWidth") <= size[0], path
            assert violations(shown, axe) == [], path
            if path != "/config":
                assert has_ink(shown), path
        assert shown.troubles == []


def test_a_phone_shows_figures_beside_names(showing: Showing, browser: Browser) -> None:
    """What teams used today is in sight without moving the table, and names stay in sight when it is moved."""
    with screen(browser, size=PHONE) as shown:
        shown.page.goto(showing.page, wait_until="networkidle")
        frame = shown.page.get_by_role("group", name="Images and cost by team")
        row = frame.locator("#team-design")
        for cell in row.locator("td").all()[:2]:
            box = cell.bounding_box()
            assert box is not None
            assert box["x"] + box["width"] <= PHONE[0]
        name = row.get_by_role("link")
        before = name.bounding_box()
        assert frame.evaluate("element => { element.scrollLeft = 100; return element.scrollLeft; }") == 100
        assert name.bounding_box() == before


@pytest.mark.npm
def test_axe_finds_what_is_wrong(showing: Showing, browser: Browser, axe: str) -> None:
    """A picture without words and text that can hardly be read are found on the same page."""
    with screen(browser) as shown:
        shown.page.goto(showing.page)
        shown.page.evaluate(
            """() => { const image = document.createElement('img'); image.src = '/static/icon.svg';
            const faint = document.createElement('p'); faint.textContent = 'faint'; faint.style.color = '#ddd';
            document.querySelector('main').append(image, faint); }"""
        )
        found = {line.partition(":")[0] for line in violations(shown, axe)}
        assert {"image-alt", "color-contrast"} <= found


def test_figures_change_while_one_looks(showing: Showing, browser: Browser) -> None:
    """An order changes the page that is open, its chart and its table of days, without its being loaded again."""
    with screen(browser) as shown:
        shown.page.goto(showing.page)
        shown.page.evaluate("window.mine = true")
        cell = shown.page.locator("#team-free td").first
        today = shown.page.locator("#days tbody tr").last
        before, drawn = int(cell.inner_text()), int(today.get_attribute("data-images") or "")
        assert showing.order("free", n=2) == 200
        wait_until(lambda: f'data-images="{drawn + 2}"' in showing.get("/").text)
        shown.a_moment_later()
        expect(cell).to_have_text(str(before + 2), timeout=PATIENCE)
        assert int(today.get_attribute("data-images") or "") == drawn + 2
        assert shown.page.evaluate("window.mine") is True
        assert shown.page.locator("#pulse").inner_text() == "Live"
        assert shown.troubles == []


def test_what_one_has_opened_and_where_one_is_stays(showing: Showing, browser: Browser) -> None:
    """A page that has fetched itself anew keeps its open table, its focus, its chart and how far it was scrolled."""
    with screen(browser, size=PHONE) as shown:
        shown.page.goto(f"{showing.page}/teams/design")
        shown.page.locator("summary").first.click()
        shown.page.locator(".plot canvas").evaluate("canvas => { canvas.mine = true; }")
        frame = shown.page.get_by_role("group", name="Images and cost by size and quality")
        frame.focus()
        frame.evaluate("element => { element.scrollLeft = 40; }")
        place = shown.page.evaluate("scrollY")
        assert place > 0
        seen = shown.page.locator("footer time").inner_text()

        def tells_another_time() -> bool:  # in whole seconds, of a clock that is not the page's
            shown.fetched_anew()
            return shown.page.locator("footer time").inner_text() != seen

        wait_until(tells_another_time)
        assert shown.page.locator("#days").is_visible()
        assert shown.page.locator(".plot canvas").evaluate("canvas => canvas.mine") is True
        assert frame.evaluate("element => document.activeElement === element && element.scrollLeft") == 40
        assert shown.page.evaluate("scrollY") == place


def test_the_theme_follows_the_browsers(showing: Showing, browser: Browser) -> None:
    """Paper and ink change places with the theme, and so does the chart, while the page is open."""

    def bright(shown: Screen, what: str) -> int:
        numbers = shown.page.evaluate(f"getComputedStyle(document.documentElement).{what}")
        return sum(map(int, re.findall(r"\d+", numbers)[:3]))

    with screen(browser, color_scheme="light") as shown:
        shown.page.goto(showing.page)
        assert bright(shown, "backgroundColor") > bright(shown, "color") + 400
        picture = "document.querySelector('.plot canvas').toDataURL()"
        light = shown.page.evaluate(picture)
        shown.page.emulate_media(color_scheme="dark")
        assert bright(shown, "backgroundColor") < bright(shown, "color") - 400
        shown.page.wait_for_function(f"light => {picture} !== light", arg=light)
        assert has_ink(shown)
        assert shown.troubles == []


def test_the_keyboard_reaches_everything(showing: Showing, browser: Browser) -> None:
    """By Tab alone one skips to the content, comes to each page, each team and each table, and sees where one is."""
    with screen(browser) as shown:
        shown.page.goto(showing.page)
        reached = []
        for _ in range(60):
            shown.page.keyboard.press("Tab")
            reached.append(
                shown.page.evaluate(
                    """() => { const e = document.activeElement, box = e.getBoundingClientRect();
                    return [e.getAttribute('aria-label') || e.textContent.trim(), box.top >= 0 && box.height > 0,
                            getComputedStyle(e).outlineStyle]; }"""
                )
            )
            if reached[-1][0] == "Accounts at the upstream":
                break
        words = [word for word, _, _ in reached]
        wanted = ["Skip to the content", "Overview", "Configuration", "As a table", "Images and cost by team", "design"]
        assert [word for word in words if word in wanted] == wanted
        assert all(visible and outline != "none" for _, visible, outline in reached), reached


def test_what_is_old_says_so(browser: Browser) -> None:
    """When the gateway is gone the open page keeps its figures and says since when they are old, and is live again
    when it is back.
    """
    with running_showing(workers=1, teams={"free": {}}) as showing, screen(browser) as shown:
        shown.page.goto(showing.page)
        shown.page.wait_for_selector("#team-free")
        showing.gateway.stop()
        pulse = expect(shown.page.locator("#pulse"))
        shown.a_moment_later()
        pulse.to_contain_text("Not live since", timeout=PATIENCE)
        assert shown.page.locator("#team-free").is_visible()
        showing.gateway.start()
        shown.a_moment_later()
        pulse.to_have_text("Live", timeout=PATIENCE)


def test_what_a_proxy_answers_is_not_shown(showing: Showing, browser: Browser) -> None:
    """A fault that comes in the page's place, from whoever stands before the gateway, leaves its figures, and shows."""
    with screen(browser) as shown:
        shown.page.goto(showing.page)
        shown.page.route("**/*", lambda route: route.fulfill(status=502, body='<div id="live">Bad gateway</div>'))
        pulse = expect(shown.page.locator("#pulse"))
        shown.a_moment_later()
        pulse.to_contain_text("Not live since", timeout=PATIENCE)
        assert shown.page.locator("#team-free").is_visible()
        shown.page.unroute("**/*")
        shown.a_moment_later()
        pulse.to_have_text("Live", timeout=PATIENCE)


def test_without_scripts_all_is_there(showing: Showing, browser: Browser) -> None:
    """With scripts switched off a page has the same figures, and asks to be loaded again now and then."""
    with screen(browser, java_script_enabled=False) as shown:
        shown.page.goto(f"{showing.page}/teams/design")
        assert shown.page.locator(".rules > li").count() == 6
        assert shown.page.locator("#days tbody tr").count() == 30
        assert shown.page.locator("noscript").inner_html().strip().startswith("<meta")


def test_a_script_that_is_slipped_in_does_not_run(showing: Showing, browser: Browser) -> None:
    """The policy that the page comes with keeps out what has no place in it, should it ever get there."""
    with screen(browser) as shown:
        shown.page.goto(showing.page)
        shown.page.evaluate(
            """() => { const script = document.createElement('script'); script.textContent = 'window.hurt = true';
            document.body.append(script);
            const image = document.createElement('img'); image.setAttribute('onerror', 'window.hurt = true');
            image.src = 'nowhere.png'; document.body.append(image); }"""
        )
        shown.page.wait_for_timeout(300)
        assert shown.page.evaluate("window.hurt") is None
        assert any("Content Security Policy" in trouble for trouble in shown.troubles)


def test_a_browser_is_asked_for_the_token(browser: Browser) -> None:
    """With a token a browser without it gets nothing; with it as the password the page is live."""
    with running_showing(workers=1, token=TOKEN, teams={"free": {}}) as showing:
        with screen(browser) as shown, pytest.raises(Error, match="ERR_INVALID_AUTH_CREDENTIALS"):
            shown.page.goto(showing.page)  # nobody is there to type one
        with screen(browser, http_credentials={"username": "ops", "password": TOKEN}) as shown:
            shown.page.goto(showing.page)
            shown.fetched_anew()
            assert shown.page.locator("#team-free").is_visible()
            assert shown.page.locator("#pulse").inner_text() == "Live"
