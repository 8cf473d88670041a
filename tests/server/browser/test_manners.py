"""How the page behaves: at the door, with the keyboard, live, with many windows, when cut off."""

import re
from typing import Any

import pytest
from playwright.async_api import Page, expect
from pydantic import SecretStr
from yarl import URL

from tests.proxy import proxy_of
from tests.server.browser.conftest import (
    OPERATOR,
    PHONE,
    TOGETHER,
    OpenPage,
    World,
    another_server,
)
from tests.server.browser.test_views import ask, go
from tests.server.test_app import free_port
from vidgen.errors import ContentBlockedError
from vidgen.job import VideoRequest

pytestmark = TOGETHER

WINDOWS = 7  # more than the six connections a browser opens to one host


# --- the door ---


async def test_a_token_opens_the_page_and_logging_out_closes_it(
    open_page: OpenPage, world: World
) -> None:
    page = await open_page("#/jobs", token=None, allow="401")
    token = page.get_by_label("Token")
    await expect(token).to_be_focused()

    await token.fill("a-token-that-is-not-one")
    await token.press("Enter")
    await expect(page.get_by_role("alert")).to_have_text("This token opens nothing here.")
    await token.fill(OPERATOR)
    await token.press("Enter")

    await expect(page.locator("h1")).to_have_text("Jobs")  # where the address had wanted to go
    [cookie] = await page.context.cookies()
    assert (cookie["httpOnly"], cookie["sameSite"]) == (True, "Strict")
    await page.get_by_role("button", name="Log out").click()
    await expect(token).to_be_visible()
    assert await page.context.cookies() == []
    await page.reload()
    await expect(token).to_be_visible()


async def test_a_session_that_ends_leads_back_to_the_door(
    open_page: OpenPage, world: World
) -> None:
    page = await open_page("#/jobs", allow="401")
    await expect(page.locator("h1")).to_have_text("Jobs")

    await page.context.clear_cookies()
    await page.get_by_role("link", name="Failed").click()

    await expect(page.get_by_label("Token")).to_be_visible()
    await expect(page.locator("#shell")).to_be_hidden()


# --- finding jobs ---


async def test_filters_find_jobs_and_stay_in_the_address(open_page: OpenPage, world: World) -> None:
    await ask(world, "a tram", user_id="mira")
    await world.queue.enqueue(VideoRequest(provider="veo", prompt="a boat"), scene_id="scene-7")
    await world.hand.fail(await ask(world, "a cat"), ContentBlockedError("no"))
    page = await open_page("#/jobs")
    rows = page.locator(".row .open")
    await expect(rows).to_have_text(["a cat", "a boat", "a tram"])

    await page.get_by_label("Any provider").select_option("veo")
    await expect(rows).to_have_text(["a boat"])
    await page.get_by_role("button", name="Clear filters").click()
    await page.get_by_label("Any error").select_option("content_blocked")
    await expect(rows).to_have_text(["a cat"])
    await page.reload()
    await expect(rows).to_have_text(["a cat"])
    await page.get_by_role("button", name="Clear filters").click()
    await page.get_by_label("User").fill("mira")
    await expect(rows).to_have_text(["a tram"])
    await expect(page.get_by_label("User")).to_be_focused()
    await page.get_by_label("Any status").select_option("completed")
    await expect(page.locator("main")).to_contain_text("No job fits these filters")


async def test_a_whole_id_leads_to_its_job(open_page: OpenPage, world: World) -> None:
    job = await ask(world)
    page = await open_page("#/jobs")

    await page.get_by_label("Job id").fill(str(job.id))

    await expect(page).to_have_url(f"{world.url}/#/jobs/{job.id}")


async def test_pages_go_back_and_forth_by_cursor(open_page: OpenPage, world: World) -> None:
    request = [VideoRequest(provider="sora", prompt=f"number {n}") for n in range(120)]
    await world.queue.enqueue_many(request)
    page = await open_page("#/jobs")
    rows, older = page.locator(".row"), page.get_by_role("button", name="Older")
    await expect(rows).to_have_count(50)
    first = await rows.first.locator(".open").inner_text()

    await older.click()
    await expect(rows.first.locator(".open")).not_to_have_text(first)
    await older.click()
    await expect(rows).to_have_count(20)
    await expect(older).to_be_disabled()
    await page.get_by_role("button", name="Newer").click()
    await expect(rows).to_have_count(50)
    await page.go_back()
    await expect(rows).to_have_count(20)
    await page.evaluate("location.hash = '#/jobs'")

    await expect(rows.first.locator(".open")).to_have_text(first)
    await expect(page.get_by_role("button", name="Newer")).to_be_disabled()


# --- live ---


async def test_what_happens_shows_without_losing_the_place(
    open_page: OpenPage, world: World
) -> None:
    jobs = [await ask(world, f"number {n}") for n in range(40)]
    page = await open_page("#/jobs")
    row = page.locator(".row").filter(has=page.get_by_text("number 10", exact=True))
    await row.locator(".open").focus()
    place = await page.evaluate("scrollY")
    assert place > 0
    await row.evaluate("row => { row.kept = true }")

    running = await world.hand.submit(await world.hand.claim(jobs[10]))
    await expect(row.locator(".status")).to_have_text("generating")
    await world.hand.progress(running, 42)
    await expect(row).to_contain_text("42 %")
    await ask(world, "a new one")
    await expect(page.locator(".row").first).to_contain_text("a new one")

    await expect(row.locator(".open")).to_be_focused()
    assert await row.evaluate("row => row.kept"), "the row is the same one, not a new one like it"
    moved = await page.evaluate("scrollY") - place
    assert 0 <= moved <= 60, "what is looked at stays where it is, or moves by the new row"


async def test_many_windows_leave_connections_for_questions(
    open_page: OpenPage, world: World
) -> None:
    first = await open_page("#/jobs")
    pages = [first, *[await first.context.new_page() for _ in range(WINDOWS - 1)]]
    for page in pages[1:]:
        await page.goto(f"{world.url}/#/jobs")

    await ask(world, "seen by all")

    for page in pages:
        await expect(page.locator(".row .open")).to_have_text(["seen by all"])


async def test_a_lost_connection_is_said_and_mended(open_page: OpenPage, world: World) -> None:
    async with proxy_of(world.settings.http_port) as proxy:
        url = f"http://127.0.0.1:{proxy.port}"
        page = await open_page("#/jobs", url=url, allow="net::ERR")
        await expect(page.locator("main")).to_contain_text("No jobs yet")
        bar = page.get_by_text("Connection lost, trying again …")
        await expect(bar).to_be_hidden()

        await proxy.cut()
        await expect(bar).to_be_visible()
        await ask(world, "made meanwhile")
        await proxy.restore()

        await expect(bar).to_be_hidden()
        await expect(page.locator(".row .open")).to_have_text(["made meanwhile"])
        await page.close()


async def test_a_question_asked_once_does_not_keep_the_connection_lost(
    open_page: OpenPage, world: World
) -> None:
    page = await open_page("#/workers", allow="net::ERR")
    await page.route("**/api/providers", lambda route: route.abort(), times=1)

    async with page.expect_response("**/api/providers"):
        async with page.expect_event("requestfailed"):
            await page.evaluate("location.hash = '#/jobs'")
        await expect(page.locator("main")).to_contain_text("No jobs yet")
        await page.evaluate("document.dispatchEvent(new Event('visibilitychange'))")

    await expect(page.get_by_text("Connection lost, trying again …")).to_be_hidden()


async def test_a_server_that_starts_again_is_found_again(open_page: OpenPage, world: World) -> None:
    port = free_port()
    bar = "Connection lost, trying again …"
    async with another_server(world, http_port=port) as url:
        page = await open_page("#/jobs", url=url, allow="net::ERR")
        await expect(page.locator("main")).to_contain_text("No jobs yet")
    await expect(page.get_by_text(bar)).to_be_visible()
    await ask(world, "made meanwhile")

    async with another_server(world, http_port=port):
        await expect(page.get_by_text(bar)).to_be_hidden()
        await expect(page.locator(".row .open")).to_have_text(["made meanwhile"])
        await ask(world, "made since")
        await expect(page.locator(".row .open")).to_have_text(["made since", "made meanwhile"])
        await page.close()


async def test_a_token_that_is_changed_leads_back_to_the_door(
    open_page: OpenPage, world: World
) -> None:
    port = free_port()
    async with another_server(world, http_port=port) as url:
        page = await open_page("#/jobs", url=url, allow=("net::ERR", "401"))
        await expect(page.locator("main")).to_contain_text("No jobs yet")

    async with another_server(world, http_port=port, admin_token=SecretStr("another-than-before")):
        await expect(page.locator("main")).to_contain_text("its token was changed")
        await page.get_by_label("Token").fill("another-than-before")
        await page.keyboard.press("Enter")

        await expect(page.locator("h1")).to_have_text("Jobs")
        await page.close()


async def test_without_postgres_the_page_says_so_and_goes_on_by_itself(
    open_page: OpenPage, world: World
) -> None:
    # Its stream stays open, so nothing but the answers tells that what is shown is old.
    address = URL(world.settings.database_url)
    async with (
        proxy_of(address.port or 0) as proxy,
        another_server(world, database_url=str(address.with_port(proxy.port))) as url,
    ):
        page = await open_page(url=url, allow="503")
        await expect(page.locator(".tile .value").first).to_have_text("0")
        bar = page.locator("#lost")

        await proxy.cut()
        await page.get_by_role("link", name="Jobs", exact=True).click()
        await expect(page.locator("main").get_by_role("alert")).to_be_visible()
        await expect(bar).to_contain_text("The server cannot answer now, trying again")
        await page.get_by_role("link", name="New video").click()
        cause = page.get_by_text("The models cannot be listed")
        await expect(cause).to_be_visible()
        await expect(bar).to_be_visible()
        await ask(world, "made meanwhile")
        await proxy.restore()

        await expect(page.get_by_label("Prompt")).to_be_visible()
        await expect(cause).to_be_hidden()
        await expect(bar).to_be_hidden()
        await page.get_by_role("link", name="Jobs", exact=True).click()
        await expect(page.locator(".row .open")).to_have_text(["made meanwhile"])
        await page.close()


async def test_who_comes_while_the_server_is_away_can_try_again(
    open_page: OpenPage, world: World
) -> None:
    page = await open_page("#/jobs", token=None, allow=("ERR_FAILED", "401"))
    await page.route("**/api/me", lambda route: route.abort(), times=1)
    await page.reload()
    await expect(page.locator("main")).to_contain_text("The server does not answer")

    await page.get_by_role("button", name="Try again").click()

    await expect(page.get_by_label("Token")).to_be_visible()


async def test_a_hidden_window_holds_no_stream(open_page: OpenPage, world: World) -> None:
    page = await open_page("#/jobs")
    await expect(page.locator("main")).to_contain_text("No jobs yet")
    hide = """hidden => {
        Object.defineProperty(document, 'hidden', { value: hidden, configurable: true });
        document.dispatchEvent(new Event('visibilitychange'));
    }"""

    async with page.expect_event("requestfailed", lambda one: "/api/events" in one.url):
        await page.evaluate(hide, True)
    await ask(world, "made meanwhile")
    await page.evaluate(hide, False)

    await expect(page.locator(".row .open")).to_have_text(["made meanwhile"])


# --- how it looks and who can use it ---


async def test_the_scheme_follows_the_system_until_one_is_chosen(
    open_page: OpenPage, world: World
) -> None:
    page = await open_page(color_scheme="dark")
    await expect(page.locator("h1")).to_be_visible()
    assert await brightness(page) < 60

    await page.get_by_role("button", name="Light").click()
    assert await brightness(page) > 200
    await page.reload()
    await expect(page.locator("h1")).to_be_visible()
    assert await brightness(page) > 200
    await expect(page.get_by_role("button", name="Light")).to_have_attribute("aria-pressed", "true")

    await page.get_by_role("button", name="As the system").click()
    assert await brightness(page) < 60


async def brightness(page: Page) -> float:
    color: str = await page.evaluate("getComputedStyle(document.body).backgroundColor")
    numbers = [float(number) for number in re.findall(r"[\d.]+", color)[:3]]
    return sum(numbers) / 3


async def test_without_motion_nothing_moves_by_itself(open_page: OpenPage, world: World) -> None:
    page = await open_page("#/", reduced_motion="reduce")
    await expect(page.locator("h1")).to_be_visible()

    moving = await page.evaluate(
        "[...document.querySelectorAll('*')].filter(node => parseFloat("
        "getComputedStyle(node).transitionDuration) > 0 || getComputedStyle(node).animationName"
        " !== 'none').length"
    )

    assert moving == 0


async def test_a_video_is_asked_for_and_cancelled_by_keyboard_alone(
    open_page: OpenPage, world: World
) -> None:
    page = await open_page()
    await expect(page.locator("h1")).to_have_text("Overview")
    keys = page.keyboard

    await keys.press("Tab")
    await expect(page.get_by_role("link", name="Skip to content")).to_be_focused()
    await keys.press("Enter")
    await expect(page.locator("main")).to_be_focused()
    await tab_to(page, "New video", backwards=True)
    await keys.press("Enter")
    await expect(page.get_by_label("Prompt")).to_be_focused()
    await keys.type("a tram in the rain")
    await tab_to(page, "4 s")
    await keys.press("ArrowRight")
    await expect(page.get_by_role("radio", name="8 s")).to_be_checked()
    await tab_to(page, "Make the video")
    await keys.press("Enter")

    await expect(page.locator("h1")).to_be_focused()  # of the job
    await tab_to(page, "Cancel …")
    await keys.press("Enter")
    await expect(page.get_by_role("dialog")).to_be_visible()
    await keys.press("Escape")
    await expect(page.get_by_role("dialog")).to_have_count(0)
    await expect(page.get_by_role("button", name="Cancel …")).to_be_focused()
    await keys.press("Enter")
    await tab_to(page, "Cancel the job")
    await keys.press("Enter")

    await expect(page.locator(".pill")).to_have_text("cancelled")


async def tab_to(page: Page, name: str, *, backwards: bool = False) -> None:
    """Press Tab until what has the focus is called *name*, as somebody would who sees no mouse."""
    for _ in range(60):
        await page.keyboard.press("Shift+Tab" if backwards else "Tab")
        focused: dict[str, Any] = await page.evaluate(
            "(node => ({ name: (node.ariaLabel ?? node.labels?.[0]?.textContent ??"
            " node.textContent).trim(), outlined: node.matches(':focus-visible') }))"
            "(document.activeElement)"
        )
        if focused["name"] == name:
            assert focused["outlined"]
            return
    pytest.fail(f"the keyboard does not get to {name!r}")


async def test_arrow_keys_walk_from_job_to_job(open_page: OpenPage, world: World) -> None:
    for number in range(3):
        await ask(world, f"number {number}")
    page = await open_page("#/jobs")
    await page.get_by_role("link", name="number 2").focus()

    await page.keyboard.press("ArrowDown")
    await page.keyboard.press("ArrowDown")
    await page.keyboard.press("ArrowUp")

    await expect(page.get_by_role("link", name="number 1")).to_be_focused()
    await page.keyboard.press("Enter")
    await expect(page.locator(".prompt")).to_have_text("number 1")


async def test_nothing_jumps_while_a_view_fills(open_page: OpenPage, world: World) -> None:
    for number in range(10):
        await ask(world, f"number {number}")
    page = await open_page("#/")
    await page.evaluate(
        "window.shifts = []; new PerformanceObserver(list => window.shifts.push("
        "...list.getEntries().filter(one => !one.hadRecentInput).map(one => one.value)))"
        ".observe({ type: 'layout-shift', buffered: true })"
    )

    await go(page, "#/jobs")
    await go(page, "#/")
    await expect(page.locator(".row")).to_have_count(8)

    assert sum(await page.evaluate("window.shifts")) < 0.1, "beyond it Google calls it poor"


async def test_a_phone_reaches_every_view(open_page: OpenPage, world: World) -> None:
    page = await open_page(viewport=PHONE, has_touch=True)

    for name in ["Jobs", "Failed", "Workers", "Providers", "Audit"]:
        await page.get_by_role("link", name=name, exact=True).tap()

        await expect(page.locator("h1")).to_have_text(name)
        await expect(page.locator("#nav a[aria-current=page]")).to_be_in_viewport()
