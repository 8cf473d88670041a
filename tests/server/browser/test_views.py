"""Each view shows what is there, in both schemes, on a desk and on a phone, to everybody."""

import asyncio
import base64
import re
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from axe_playwright_python.base import AXE_SCRIPT
from playwright.async_api import Page, expect
from pydantic import SecretStr

from tests.builders import a_video
from tests.journeys.conftest import WorkerProcess
from tests.server.browser.conftest import DESKTOP, PHONE, READER, TOGETHER, OpenPage, World
from vidgen import lifecycle
from vidgen.errors import ContentBlockedError, StorageDeniedError
from vidgen.job import VideoJob, VideoRequest
from vidgen.queue import VideoQueue
from vidgen.store import erasure, reuses

pytestmark = TOGETHER

VIEWS = ["#/", "#/jobs", "#/failed", "#/workers", "#/providers", "#/money", "#/audit", "#/new"]
NOTHING = {
    "#/": "Nothing is under way",
    "#/jobs": "No jobs yet",
    "#/failed": "Nothing failed",
    "#/workers": "No worker is alive",
    "#/money": "Nothing limits what is spent",
    "#/audit": "Nobody did anything yet",
}
LOOKS_LIKE_MARKUP = "<img src=x onerror=\"document.title='owned'\"><script>owned()</script>&amp;"


async def ask(world: World, prompt: str = "a tram in the rain", **more: Any) -> VideoJob:
    request = VideoRequest(provider="sora", prompt=prompt, seconds=8, size="1280x720")
    return await world.queue.enqueue(request, **more)


async def some_of_each(world: World) -> dict[str, VideoJob]:
    """A job in each state; the pictures of the finished one are in no bucket."""
    hand = world.hand
    blocked = await hand.fail(await ask(world), ContentBlockedError("moderation said no"))
    kept = await hand.generate(await hand.submit(await hand.claim(await ask(world))))
    kept = await hand.fail(kept, StorageDeniedError("the bucket refuses our key"))
    running = await hand.submit(await hand.claim(await ask(world, scene_id="scene-7")))
    later = datetime.now(UTC) + timedelta(hours=1)
    return {
        "blocked": blocked,
        "kept": kept,
        "running": running,
        "done": await hand.carry(await ask(world, user_id="mira", metadata={"order": 4711})),
        "waiting": await ask(world),
        "delayed": await ask(world, run_at=later),
        "cancelled": await world.queue.cancel((await ask(world)).id),
    }


async def go(page: Page, route: str) -> None:
    """Follow a link to *route* and wait for what it shows."""
    await page.evaluate("hash => { location.hash = hash }", route)
    view = page.locator(f'main > [data-view="{view_of(route)}"]')
    await expect(view.locator("h1")).to_be_visible()
    # Each view has something behind its heading once its first answer is there.
    await expect(
        view.locator(".row, .group, tbody tr, .empty, .form:not([hidden]), .job:not([hidden])")
        .filter(visible=True)
        .first
    ).to_be_visible()


def view_of(route: str) -> str:
    names = {"": "overview", "new": "make"}
    first, _, rest = route.removeprefix("#/").partition("/")
    return "job" if rest else names.get(first, first)


# --- for everybody ---


async def test_axe_finds_nothing_in_any_view(open_page: OpenPage, world: World) -> None:
    jobs = await some_of_each(world)
    await world.queue.pause("veo", by="mira", reason="the vendor has an incident")
    page = await open_page(color_scheme="light", allow="404")
    paused = await page.request.post(f"{world.url}/api/queue/pause", data={"provider": "veo"})
    assert paused.ok  # and stands in the audit
    await page.evaluate(AXE_SCRIPT)

    shown = ("kept", "running", "done", "cancelled")
    for route in [*VIEWS, *(f"#/jobs/{jobs[name].id}" for name in shown)]:
        await go(page, route)
        assert await violations(page) == [], route
        # A scheme changes colours and nothing else.
        await page.emulate_media(color_scheme="dark")
        assert await violations(page, "color-contrast") == [], f"{route} in the dark"
        await page.emulate_media(color_scheme="light")


async def test_axe_finds_nothing_in_the_table_of_workers(
    open_page: OpenPage, world: World, worker: WorkerProcess
) -> None:
    await ask(world, "a tram [[sim:generate 600]]")
    page = await open_page("#/workers", color_scheme="light")
    row = page.locator("tbody tr")

    await expect(row.locator(".status")).to_have_text("alive")
    await expect(row).to_contain_text("1 of 20")
    await expect(row.get_by_role("meter")).to_have_js_property("value", 1)

    await page.evaluate(AXE_SCRIPT)
    assert await violations(page) == []
    await page.emulate_media(color_scheme="dark")
    assert await violations(page, "color-contrast") == []


async def violations(page: Page, rule: str | None = None) -> list[str]:
    options = {"resultTypes": ["violations"], **({"runOnly": [rule]} if rule else {})}
    found = await page.evaluate("options => axe.run(document, options)", options)
    return [f"{one['id']}: {node['html']}" for one in found["violations"] for node in one["nodes"]]


async def test_axe_finds_nothing_at_the_door_and_in_a_dialog(
    open_page: OpenPage, world: World
) -> None:
    await world.hand.fail(await ask(world), ContentBlockedError("moderation said no"))
    door = await open_page(token=None)
    await expect(door.get_by_label("Token")).to_be_visible()
    await door.evaluate(AXE_SCRIPT)
    page = await open_page("#/failed")
    await page.get_by_role("button", name="Retry those").click()
    await expect(page.get_by_role("dialog")).to_contain_text("made and paid again")
    await page.evaluate(AXE_SCRIPT)

    for one in (door, page):
        await one.emulate_media(color_scheme="light")
        assert await violations(one) == []
        await one.emulate_media(color_scheme="dark")
        assert await violations(one, "color-contrast") == []


async def test_on_a_phone_nothing_is_wider_than_the_screen(
    open_page: OpenPage, world: World
) -> None:
    jobs = await some_of_each(world)
    await ask(world, "Donaudampfschifffahrtsgesellschaft" * 10, scene_id="x" * 300)
    page = await open_page(viewport=PHONE, allow="404")

    for route in [*VIEWS, *(f"#/jobs/{job.id}" for job in jobs.values())]:
        await go(page, route)

        wide = await page.evaluate("document.documentElement.scrollWidth")

        assert wide <= PHONE["width"], route


async def test_an_empty_view_says_what_will_be_there(open_page: OpenPage, world: World) -> None:
    page = await open_page()

    for route, words in NOTHING.items():
        await go(page, route)

        await expect(page.get_by_text(words)).to_be_visible()

    await go(page, "#/jobs")
    await expect(page.locator("main")).to_contain_text("Make a video, or run vidgen submit")


async def test_what_looks_like_markup_is_shown_as_text(open_page: OpenPage, world: World) -> None:
    job = await ask(
        world,
        LOOKS_LIKE_MARKUP,
        scene_id=LOOKS_LIKE_MARKUP,
        user_id=LOOKS_LIKE_MARKUP,
        metadata={LOOKS_LIKE_MARKUP: LOOKS_LIKE_MARKUP},
    )
    await world.hand.fail(job, ContentBlockedError(LOOKS_LIKE_MARKUP))
    page = await open_page("#/jobs")

    await expect(page.locator(".row .open")).to_have_text(LOOKS_LIKE_MARKUP)
    await expect(page.locator(".row .sub").first).to_contain_text(f"scene {LOOKS_LIKE_MARKUP}")
    await go(page, f"#/jobs/{job.id}")
    await expect(page.locator(".prompt")).to_have_text(LOOKS_LIKE_MARKUP)
    await expect(page.locator(".banner.bad")).to_contain_text(LOOKS_LIKE_MARKUP)
    await expect(page.locator(".timeline")).to_contain_text(LOOKS_LIKE_MARKUP)
    await world.queue.pause("sora", by=LOOKS_LIKE_MARKUP, reason=LOOKS_LIKE_MARKUP)
    await go(page, "#/")
    await expect(page.locator(".issues")).to_contain_text(
        f"paused by {LOOKS_LIKE_MARKUP}: {LOOKS_LIKE_MARKUP}"
    )
    assert await page.locator("main script, main img").count() == 0
    assert "owned" not in await page.title()


async def test_what_is_very_long_scrolls_in_its_own_box(open_page: OpenPage, world: World) -> None:
    job = await ask(
        world,
        "rain\n" * 6_000,
        metadata={f"line {number}": "x" * 40 for number in range(200)},
        scene_id="s" * 500,
    )
    page = await open_page(f"#/jobs/{job.id}", viewport=PHONE)

    for box in (page.locator(".prompt"), page.locator("pre")):
        await expect(box).to_be_visible()
        height, full = await box.evaluate("box => [box.clientHeight, box.scrollHeight]")
        assert height <= 320
        assert full > height
        await expect(box).to_have_attribute("tabindex", "0")  # and by keyboard
    await go(page, "#/jobs")
    row = page.locator(".row")
    assert await row.evaluate("row => row.clientHeight") < 120
    assert len(await row.inner_text()) < 1_500, "a list shows the beginning of a prompt"


async def test_an_upright_video_fits_with_its_controls(open_page: OpenPage, world: World) -> None:
    hand = world.hand
    job = await hand.generate(await hand.submit(await hand.claim(await ask(world))))
    upright = replace(a_video(), width=720, height=1280)
    job = await hand.write(job, lifecycle.completed(job, upright))

    for viewport in (DESKTOP, PHONE):
        page = await open_page(f"#/jobs/{job.id}", viewport=viewport, allow="404")
        await expect(page.locator("video")).to_be_visible()
        video, stage = [
            await page.locator(name).bounding_box() for name in ("video", ".stage.upright")
        ]
        assert video is not None
        assert video == stage
        assert video["height"] < viewport["height"] * 0.8


async def test_two_thousand_jobs_are_a_page_like_any_other(
    open_page: OpenPage, world: World
) -> None:
    request = [VideoRequest(provider="sora", prompt=f"number {n}") for n in range(2_000)]
    await world.queue.enqueue_many(request)
    page = await open_page()
    tile = page.locator(".tile").filter(has=page.get_by_text("Waiting", exact=True))
    await expect(tile.locator(".value")).to_have_text("2,000")

    await go(page, "#/jobs")

    await expect(page.locator(".row")).to_have_count(50)
    await expect(page.get_by_text("The newest 50 jobs")).to_be_visible()
    places = await page.locator(".row .run").all_inner_texts()
    assert all(re.match(r"place \d+", place) for place in places)


# --- what they show ---


async def test_the_overview_counts_and_tells_the_money(open_page: OpenPage, world: World) -> None:
    await some_of_each(world)
    page = await open_page()

    for name, number in {"Waiting": "1", "Active": "1", "Failed": "2", "Delayed": "1"}.items():
        tile = page.locator(".tile").filter(has=page.get_by_text(name, exact=True))
        await expect(tile.locator(".value")).to_have_text(number)
    await expect(page.locator(".issues")).to_contain_text("no worker is alive")
    await expect(page.locator(".tile", has_text="Spent today").locator(".value")).to_contain_text(
        "$"
    )
    chart = page.get_by_role("group", name="Videos")
    await expect(chart.get_by_role("img")).to_have_attribute(
        "aria-label", "Videos: 1 made, 2 failed; the table below has the numbers"
    )
    await chart.get_by_text("As a table").click()
    await expect(chart.locator("tbody td.number")).to_have_text(["1", "2"])
    oldest = page.locator(".tile", has_text="Oldest waiting")
    await expect(oldest).to_contain_text("in line")
    took = page.get_by_role("group", name="Time to a video")
    await expect(took.get_by_role("img")).to_have_attribute(
        "aria-label", re.compile(r"Time to a video: [\d.]+ s; the table below")
    )
    await expect(page.locator(".row")).to_have_count(3)


async def test_a_chart_tells_what_is_under_the_pointer(open_page: OpenPage, world: World) -> None:
    await world.hand.carry(await ask(world))
    page = await open_page()
    chart = page.get_by_role("group", name="Videos")
    bar = chart.locator("rect.mark-good")
    await expect(bar).to_have_count(1)

    await bar.hover()

    await expect(chart.locator(".tip")).to_contain_text("made: 1")


async def test_a_job_is_told_in_words_with_times_and_money(
    open_page: OpenPage, world: World
) -> None:
    job = await world.hand.carry(await ask(world, user_id="mira", metadata={"order": 4711}))
    page = await open_page(f"#/jobs/{job.id}", allow="404")

    titles = page.locator(".timeline .title")
    await expect(titles).to_have_text(
        [
            "Accepted",
            "Taken by a worker",
            "Paid request goes to Sora",
            "Sora accepted it",
            "Sora has finished the video",
            "Stored",
        ]
    )
    timeline = page.locator(".timeline")
    await expect(timeline).to_contain_text("estimated $0.80")
    await expect(timeline).to_contain_text("paid $0.80")
    assert await timeline.locator("time[title]").count() == 6
    facts = page.locator(".job-side")
    await expect(facts).to_contain_text("1280x720")
    await expect(facts).to_contain_text('"order": 4711')


async def test_what_the_provider_tells_beats_a_rule_of_thumb(
    open_page: OpenPage, world: World
) -> None:
    running = await world.hand.submit(await world.hand.claim(await ask(world)))
    page = await open_page(f"#/jobs/{running.id}")
    said = page.locator(".stage .muted")
    await expect(said).to_contain_text("ready in about")  # minutes, as vendors say

    async def tell() -> None:
        while True:  # progress is told live only, and the page may not listen yet
            await world.hand.progress(running, 98)
            await asyncio.sleep(0.05)

    async with asyncio.TaskGroup() as group:
        telling = group.create_task(tell())
        await expect(page.locator(".stage .value")).to_have_text("98 %")
        telling.cancel()
    await expect(said).to_contain_text("ready in a few seconds")


async def test_a_job_id_can_be_copied(open_page: OpenPage, world: World) -> None:
    job = await ask(world)
    page = await open_page(f"#/jobs/{job.id}", permissions=["clipboard-read", "clipboard-write"])

    await page.get_by_role("button", name="Copy the whole id").click()

    await expect(page.locator(".toast")).to_have_text("Copied")
    assert await page.evaluate("navigator.clipboard.readText()") == str(job.id)


async def test_the_providers_tell_models_prices_and_ends(open_page: OpenPage, world: World) -> None:
    page = await open_page("#/providers")

    sora = page.get_by_role("region", name="Sora", exact=True)
    await expect(sora).to_contain_text("0 of 1,000")
    row = sora.locator("tr").filter(has=page.get_by_text("sora-2-pro", exact=True))
    await expect(row).to_contain_text("2026-09-24")
    await expect(row).to_contain_text("$0.30 to $0.70")


async def test_an_unknown_job_and_an_unknown_page_say_so(open_page: OpenPage, world: World) -> None:
    page = await open_page("#/jobs/00000000-0000-7000-8000-000000000000", allow="404")

    await expect(page.locator("main")).to_contain_text("There is no such job")
    await page.goto(f"{world.url}/#/nowhere")
    await expect(page.locator("main")).to_contain_text("There is no such page")


async def test_who_may_only_look_sees_nothing_that_acts(open_page: OpenPage, world: World) -> None:
    jobs = await some_of_each(world)
    page = await open_page(token=READER, allow="404")

    for route in [*VIEWS[:-1], *(f"#/jobs/{job.id}" for job in jobs.values())]:
        await go(page, route)

        acts = page.locator("main").get_by_role("button", name="…")
        await expect(acts).to_have_count(0)
    await expect(page.locator("#nav")).not_to_contain_text("New video")
    await expect(page.locator("#who")).to_contain_text("guest · may look")
    await page.evaluate("location.hash = '#/new'")
    await expect(page.locator("main")).to_contain_text("may look and not act")


async def test_a_prompt_that_does_not_open_says_so(open_page: OpenPage, world: World) -> None:
    ring = SecretStr(base64.b64encode(bytes(range(32))).decode())
    sealing = world.settings.model_copy(update={"encryption_keys": ring, "encrypt_prompts": True})
    async with VideoQueue(sealing) as asking:
        job = await asking.enqueue(VideoRequest(provider="sora", prompt="a tram", seconds=8))
    page = await open_page("#/jobs")

    await expect(page.locator(".row .open")).to_contain_text("prompt sealed")
    await go(page, f"#/jobs/{job.id}")
    await expect(page.locator(".prompt")).to_contain_text("does not open")


async def test_an_archived_video_is_not_played(open_page: OpenPage, world: World) -> None:
    job = await world.hand.carry(await ask(world))
    async with world.resources.database.connection() as connection:
        await erasure.archive(connection, [job.id])
    page = await open_page(f"#/jobs/{job.id}")

    await expect(page.locator(".prompt")).to_have_text("No longer kept.")
    await expect(page.locator("video")).to_have_count(0)


async def test_a_video_that_is_not_in_the_bucket_any_more_is_not_played(
    open_page: OpenPage, world: World
) -> None:
    job = await world.hand.carry(await ask(world))
    async with world.resources.database.connection() as connection:
        await reuses.missed(connection, job.id)
    page = await open_page(f"#/jobs/{job.id}")

    await expect(page.locator(".banner")).to_contain_text("not in the bucket any more")
    await expect(page.locator("video")).to_have_count(0)
