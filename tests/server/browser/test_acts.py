"""What people do on the page, and what comes of it in the queue."""

import asyncio
import re

from axe_playwright_python.base import AXE_SCRIPT
from playwright.async_api import Page, Route, expect
from pydantic import SecretStr

from tests.journeys.conftest import WorkerProcess
from tests.server.browser.conftest import (
    PHONE,
    READER,
    TOGETHER,
    OpenPage,
    World,
    another_server,
)
from tests.server.browser.test_views import ask, violations
from vidgen.errors import ContentBlockedError, StorageDeniedError
from vidgen.job import EventType, JobStatus, Stage, VideoJob, VideoRequest
from vidgen.simulator.control import unix_now
from vidgen.store import budgets

pytestmark = TOGETHER


async def confirm(page: Page, name: str) -> None:
    dialog = page.get_by_role("dialog")
    await dialog.get_by_role("button", name=name).click()
    await expect(dialog).to_have_count(0)


# --- a video from the form to the screen ---


async def test_a_video_is_asked_for_followed_and_played(
    open_page: OpenPage, world: World, worker: WorkerProcess
) -> None:
    page = await open_page("#/new")
    await page.get_by_label("Prompt").fill("a tram in the rain [[sim:generate 600]]")
    await page.get_by_role("radio", name="8 s").check()
    await page.get_by_role("radio", name="landscape").check()
    await expect(page.locator(".price .value")).to_have_text("$0.80")

    await page.get_by_role("button", name="Make the video").click()

    await expect(page.locator(".pill")).to_have_text("generating")
    for percent in (30, 60):
        reach(world, percent)
        await expect(page.locator(".stage .value")).to_have_text(f"{percent} %")
        assert await page.get_by_role("progressbar").evaluate("bar => bar.value") == percent
    reach(world, 100)
    await expect(page.locator(".pill")).to_have_text("completed")
    video = page.locator("video")
    await expect(video).to_be_visible()
    await video.evaluate("async video => { video.muted = true; await video.play() }")
    await video.evaluate(
        "video => new Promise(done => video.addEventListener('timeupdate',"
        " () => video.currentTime > 0.2 && done()))"
    )
    assert await video.evaluate("video => [video.readyState >= 2, video.videoWidth]") == [True, 320]
    assert await page.locator("#nav a[aria-current=page]").inner_text() == "Jobs"
    [charge] = world.simulators.sora.bill
    assert (charge.seconds, charge.cost_micros) == (8, 800_000)
    [job] = await world.queue.recent()
    assert (job.parameters["size"], job.idempotency_key is None) == ("1280x720", False)


def reach(world: World, percent: int) -> None:
    """Let the one generation of Sora be as far as that, and stay there for a while; 100 ends it."""
    [generation] = world.simulators.sora.generations.values()
    if percent == 100:
        generation.ready_at = unix_now()
        return
    # The simulator tells whole parts of 99. In the middle of one: for 500 s it tells no other.
    generation.created_at = unix_now() - (percent + 0.5) * 1000
    generation.ready_at = generation.created_at + 99 * 1000


async def test_a_form_sent_twice_is_one_video(open_page: OpenPage, world: World) -> None:
    page = await open_page("#/new", allow="ERR_FAILED")
    await page.get_by_label("Prompt").fill("a tram in the rain")
    # The first answer is lost on its way: the server has the job, the page does not know.

    async def lose(route: Route) -> None:
        await route.fetch()
        await route.abort()

    await page.route("**/api/jobs", lose, times=1)
    submit = page.get_by_role("button", name="Make the video")

    await submit.click()
    await expect(page.get_by_role("alert").filter(visible=True)).to_contain_text("No answer came")
    await submit.click()

    await expect(page.locator(".pill")).to_have_text("waiting")
    assert len(await world.queue.recent()) == 1


async def test_the_form_offers_what_the_model_can_do(open_page: OpenPage, world: World) -> None:
    page = await open_page("#/new")
    form = page.locator("form.form")

    await page.get_by_label("Model").select_option("veo/veo-3.1-fast-generate-preview")

    await expect(form.get_by_role("group", name="Shape")).to_be_visible()
    await expect(form.get_by_label("Not in the picture")).to_be_visible()
    await expect(form.get_by_label("Seed")).to_be_hidden()
    await form.get_by_role("radio", name="1080p").check()
    # That resolution exists at the full length only.
    await expect(form.get_by_role("radio", name="8 s")).to_be_checked()
    await expect(form.get_by_role("radio", name="4 s")).to_be_disabled()
    await expect(page.locator(".price .value")).to_have_text("$0.96")
    await expect(page.get_by_role("option", name="not set up").first).to_be_disabled()


async def test_what_the_catalog_refuses_is_said_beside_the_button(
    open_page: OpenPage, world: World
) -> None:
    page = await open_page("#/new", allow="400")
    await page.get_by_label("Prompt").fill("x" * 32_001)

    await page.get_by_role("button", name="Make the video").click()

    await expect(page.locator(".price .error")).to_contain_text("takes at most 32000")
    assert await world.queue.recent() == []


async def test_a_route_says_who_makes_it(open_page: OpenPage, world: World) -> None:
    page = await open_page("#/new")
    await page.get_by_label("Prompt").fill("a tram in the rain")

    await page.get_by_label("Route").select_option("cheap-landscape")

    await expect(page.get_by_label("Route")).to_have_accessible_description(
        "Veo veo-3.1-lite-generate-preview, then Sora sora-2; for $2.00 in all at most"
    )
    await expect(page.get_by_label("Model", exact=True)).to_be_hidden()
    await expect(page.get_by_role("group", name="Shape")).to_be_visible()  # of Veo
    await page.get_by_role("button", name="Make the video").click()
    await expect(page.locator(".pill")).to_have_text("waiting")
    [job] = await world.queue.recent()
    assert (job.route, [each.provider for each in job.targets]) == (
        "cheap-landscape",
        ["veo", "sora"],
    )
    await page.evaluate("hash => { location.hash = hash }", f"#/new?like={job.id}")
    await expect(page.get_by_label("Route")).to_have_value("cheap-landscape")


async def reserved_on(page: Page, world: World) -> str:
    """Send the form; what the new job may cost, as the page writes it."""
    await page.get_by_role("button", name="Make the video").click()
    await expect(page.locator(".pill")).to_have_text("waiting")
    [job] = await world.queue.recent()
    assert job.estimated_cost_micros is not None
    return f"${job.estimated_cost_micros / 1e6:.2f}"


async def test_what_a_route_sets_is_shown_and_priced(open_page: OpenPage, world: World) -> None:
    page = await open_page("#/new")
    form, value = page.locator("form.form"), page.locator(".price .value")
    await page.get_by_label("Prompt").fill("a tram in the rain")
    await form.get_by_role("radio", name="4 s").check()
    await expect(value).to_have_text("$0.40")

    await page.get_by_label("Route", exact=True).select_option("long-and-upright")

    length = form.get_by_role("group", name="Length, set by the route")
    await expect(length.get_by_role("radio")).to_have_count(1)
    await expect(length.get_by_role("radio", name="12 s")).to_be_checked()
    await expect(length.get_by_role("radio", name="12 s")).to_be_disabled()
    shape = form.get_by_role("group", name="Size, set by the route")
    await expect(shape.get_by_role("radio")).to_have_count(1)
    await expect(shape.get_by_role("radio", name="720 × 1280 upright")).to_be_checked()
    await expect(value).to_have_text("$1.20")
    await page.evaluate(AXE_SCRIPT)
    assert await violations(page) == []
    assert await reserved_on(page, world) == "$1.20"


async def test_what_a_route_no_longer_sets_can_be_chosen_again(
    open_page: OpenPage, world: World
) -> None:
    async with another_server(world, fal_key=SecretStr("fal-key")) as url:
        page = await open_page("#/new", url=url)
        form = page.locator("form.form")
        await page.get_by_label("Route", exact=True).select_option("sharp-and-silent")
        sound = form.get_by_label("With sound")
        await expect(sound).not_to_be_checked()
        await expect(sound).to_be_disabled()
        resolution = form.get_by_role("group", name="Resolution, set by the route")
        await expect(resolution.get_by_role("radio", name="1080p")).to_be_checked()
        await expect(page.locator(".price .value")).to_have_text("$0.40")  # sound costs more

        await page.get_by_label("Route", exact=True).select_option("fal-as-it-likes")

        await expect(sound).to_be_checked()
        await expect(sound).to_be_enabled()
        await expect(page.locator(".price .value")).to_have_text("$0.60")
        await form.get_by_role("group", name="Resolution").get_by_role("radio", name="4k").check()
        await sound.uncheck()
        await page.get_by_label("Prompt").fill("a tram in the rain")
        await expect(page.locator(".price .value")).to_have_text("$1.20")
        assert await reserved_on(page, world) == "$1.20"
        await page.close()


async def test_a_route_that_names_no_model_is_priced_by_the_default_one(
    open_page: OpenPage, world: World
) -> None:
    async with another_server(world, fal_key=SecretStr("fal-key")) as url:
        page = await open_page("#/new", url=url)
        await page.get_by_label("Prompt").fill("a tram in the rain")

        await page.get_by_label("Route", exact=True).select_option("fal-as-it-likes")

        await expect(page.get_by_label("Route", exact=True)).to_have_accessible_description(
            "fal fal-ai/veo3.1/fast"
        )
        shown = await page.locator(".price .value").inner_text()
        assert await reserved_on(page, world) == shown
        await page.close()


async def test_a_route_to_a_model_that_nobody_lists_has_no_price(
    open_page: OpenPage, world: World
) -> None:
    page = await open_page("#/new")

    await page.get_by_label("Route", exact=True).select_option("my-own")

    await expect(page.locator(".price .value")).to_have_text("–")
    await expect(page.locator(".price")).to_contain_text("my/app is not listed here")
    await expect(page.get_by_role("group", name="Length")).to_be_hidden()


async def test_what_the_first_of_a_route_sets_holds_for_the_one_in_its_place(
    open_page: OpenPage, world: World
) -> None:
    page = await open_page("#/new")

    await page.get_by_label("Route", exact=True).select_option("fal-if-there-is-a-key")

    await expect(page.get_by_role("radio", name="8 s")).to_be_disabled()
    await expect(page.locator(".price .value")).to_have_text("$0.80")
    await expect(page.locator(".price")).to_contain_text("those before it in the route")


async def test_a_fallback_that_cannot_do_it_is_told_so_beside_it(
    open_page: OpenPage, world: World
) -> None:
    page = await open_page("#/new", allow="400")
    await page.get_by_label("Prompt").fill("a tram in the rain")
    await page.get_by_role("radio", name="8 s").check()
    await page.get_by_text("If that fails").click()
    await page.get_by_role("button", name="Add a fallback").click()
    fallback = page.get_by_role("combobox", name="Fallback 1")
    await fallback.select_option("veo/veo-3.1-generate-preview")
    submit = page.get_by_role("button", name="Make the video")

    await submit.click()

    # It costs more than what was asked for.
    await expect(fallback).to_have_attribute("aria-invalid", "true")
    await expect(fallback).to_be_focused()
    await expect(fallback).to_have_accessible_description(re.compile(r"\$3\.20"))
    await page.evaluate(AXE_SCRIPT)
    assert await violations(page) == []
    await page.get_by_label("All attempts may cost").fill("4")
    await submit.click()
    await expect(page.locator(".pill")).to_have_text("waiting")
    [job] = await world.queue.recent()
    assert ([each.model for each in job.targets], job.max_cost_micros) == (
        ["sora-2", "veo-3.1-generate-preview"],
        4_000_000,
    )


async def test_one_like_it_takes_over_what_was_asked(open_page: OpenPage, world: World) -> None:
    job = await world.hand.fail(
        await ask(world, "paper boats", scene_id="scene-7"), ContentBlockedError("no")
    )
    page = await open_page(f"#/jobs/{job.id}")

    await page.get_by_role("link", name="One like it").click()

    await expect(page.get_by_label("Prompt")).to_have_value("paper boats")
    await expect(page.get_by_role("radio", name="8 s")).to_be_checked()
    await page.get_by_text("For whom and when").click()
    await expect(page.get_by_label("Scene")).to_have_value("scene-7")


# --- cancel ---


async def test_a_job_in_line_is_cancelled_for_free(open_page: OpenPage, world: World) -> None:
    job = await ask(world)
    page = await open_page(f"#/jobs/{job.id}")

    await page.get_by_role("button", name="Cancel …").click()
    await expect(page.get_by_role("dialog")).to_contain_text("cancelling is free")
    await confirm(page, "Cancel the job")

    await expect(page.locator(".pill")).to_have_text("cancelled")
    await expect(page.locator(".banner")).to_contain_text("It cost nothing")
    assert (await world.queue.get(job.id)).status is JobStatus.CANCELLED


async def test_a_generation_is_cancelled_with_the_truth_about_the_money(
    open_page: OpenPage, world: World, worker: WorkerProcess
) -> None:
    job = await ask(world, "a tram [[sim:generate 30]]")
    page = await open_page(f"#/jobs/{job.id}")
    await expect(page.locator(".pill")).to_have_text("generating")

    await page.get_by_role("button", name="Cancel …").click()
    await expect(page.get_by_role("dialog")).to_contain_text("$0.80 may be billed")
    await confirm(page, "Cancel the job")

    await expect(page.locator(".pill")).to_have_text("cancelled")
    await expect(page.locator(".timeline")).to_contain_text("Cancel asked for")
    assert world.simulators.sora.of("cancel")


async def test_what_happens_before_the_stream_begins_is_shown_at_once(
    open_page: OpenPage, world: World
) -> None:
    job = await ask(world)
    page = await open_page(f"#/jobs/{job.id}")
    may_begin = asyncio.Event()

    async def late(route: Route) -> None:
        await may_begin.wait()
        await route.continue_()

    await page.route("**/api/events", late)
    await page.reload()
    await expect(page.locator(".pill")).to_have_text("waiting")
    await world.hand.submit(await world.hand.claim(job))
    may_begin.set()

    # Everything is looked at again after 15 s in any case.
    await expect(page.locator(".pill")).to_have_text("generating", timeout=8000)


async def test_a_video_that_is_made_can_be_discarded(open_page: OpenPage, world: World) -> None:
    job = await ask(world)
    await world.hand.generate(await world.hand.submit(await world.hand.claim(job)))
    page = await open_page(f"#/jobs/{job.id}")

    await page.get_by_role("button", name="Cancel …").click()
    await expect(page.get_by_role("dialog")).to_contain_text("$0.80 is due whatever happens")
    await page.get_by_label("Discard the video").check()
    await confirm(page, "Cancel the job")

    await expect(page.locator(".pill")).to_have_text("cancelling")
    assert (await world.queue.get(job.id)).cancel_discards


# --- retry ---


async def test_a_retry_that_pays_says_how_much_before(open_page: OpenPage, world: World) -> None:
    job = await world.hand.fail(await ask(world), ContentBlockedError("moderation said no"))
    page = await open_page(f"#/jobs/{job.id}")

    await page.get_by_role("button", name="Retry …").click()
    await expect(page.get_by_role("dialog")).to_contain_text("a new video for about $0.80")
    await confirm(page, "Retry for $0.80")

    await expect(page.locator(".pill")).to_have_text("waiting")
    assert (await world.queue.get(job.id)).status is JobStatus.PENDING


async def test_a_retry_goes_on_with_what_is_paid(open_page: OpenPage, world: World) -> None:
    job = await kept(world)
    page = await open_page(f"#/jobs/{job.id}")

    await page.get_by_role("button", name="Retry …").click()
    await expect(page.get_by_role("dialog")).to_contain_text("nothing is paid again")
    await confirm(page, "Retry")

    await expect(page.locator(".timeline")).to_contain_text("Goes on with what is paid already")
    assert (await world.queue.get(job.id)).stage is Stage.TRANSFERRING


async def kept(world: World) -> VideoJob:
    """A job whose video is made, and failed on its way into the bucket."""
    hand = world.hand
    job = await hand.generate(await hand.submit(await hand.claim(await ask(world))))
    return await hand.fail(job, StorageDeniedError("the bucket refuses our key"))


async def test_all_of_a_kind_are_retried_after_a_look_at_the_bill(
    open_page: OpenPage, world: World
) -> None:
    blocked = [await world.hand.fail(await ask(world), ContentBlockedError("no")) for _ in range(3)]
    other = await kept(world)
    page = await open_page("#/failed")
    await expect(page.locator("#nav .count")).to_have_text("4")

    await page.get_by_role("button", name="Retry those with content_blocked of sora").click()
    dialog = page.get_by_role("dialog")
    await expect(dialog).to_contain_text("3 are made and paid again$2.40")
    assert all([(await world.queue.get(job.id)).status is JobStatus.FAILED for job in blocked])
    await confirm(page, "Retry 3 jobs for $2.40")

    await expect(page.locator(".group")).to_have_count(1)
    await expect(page.locator("#nav .count")).to_have_text("1")
    assert all([(await world.queue.get(job.id)).status is JobStatus.PENDING for job in blocked])
    assert (await world.queue.get(other.id)).status is JobStatus.FAILED


async def test_a_dry_run_counts_again_when_all_shall_be_anew(
    open_page: OpenPage, world: World
) -> None:
    await kept(world)
    page = await open_page("#/failed")

    await page.get_by_role("button", name="Retry those").click()
    dialog = page.get_by_role("dialog")
    await expect(dialog).to_contain_text("1 go on with what is paid")
    await dialog.get_by_label("Make all of them anew").check()

    await expect(dialog.get_by_role("button", name="Retry 1 job for $0.80")).to_be_enabled()


# --- the queue ---


async def test_a_provider_is_paused_and_resumed(open_page: OpenPage, world: World) -> None:
    page = await open_page("#/providers")
    sora = page.get_by_role("region", name="Sora", exact=True)

    await sora.get_by_role("button", name="Pause").click()
    await page.get_by_label("Reason").fill("the vendor has an incident")
    await confirm(page, "Pause")
    await expect(sora.locator(".pill")).to_have_text("paused")

    await page.get_by_role("link", name="Overview").click()
    await expect(page.locator(".issues")).to_contain_text(
        "Sora is paused by admin: the vendor has an incident"
    )
    await page.get_by_role("button", name="Resume Sora").click()
    await expect(page.locator(".issues")).not_to_contain_text("Sora is paused")

    await page.get_by_role("link", name="Audit").click()
    await expect(page.locator("tbody code")).to_have_text(["resume", "pause"])


async def test_the_queue_is_drained_and_goes_on(open_page: OpenPage, world: World) -> None:
    page = await open_page()

    await page.get_by_role("button", name="Drain …").click()
    await confirm(page, "Drain")
    await expect(page.locator(".pill")).to_have_text("drained")

    await page.locator(".actions").get_by_role("button", name="Resume").click()
    await expect(page.locator(".pill")).not_to_have_text("drained")


async def test_somebody_else_was_faster_and_the_page_says_so(
    open_page: OpenPage, world: World
) -> None:
    job = await world.hand.fail(await ask(world), ContentBlockedError("no"))
    page = await open_page(f"#/jobs/{job.id}", allow="409")
    await page.get_by_role("button", name="Retry …").click()
    async with asyncio.timeout(10):
        await world.queue.retry(job.id)

    await page.get_by_role("dialog").get_by_role("button", name="Retry for").click()

    await expect(page.get_by_role("dialog").get_by_role("alert")).to_contain_text("retried")


async def test_two_windows_that_cancel_one_job_cancel_it_once(
    open_page: OpenPage, world: World
) -> None:
    job = await ask(world)
    first = await open_page(f"#/jobs/{job.id}")
    second = await open_page(f"#/jobs/{job.id}")
    for page in (first, second):
        await page.get_by_role("button", name="Cancel …").click()

    await confirm(first, "Cancel the job")
    await expect(second.locator(".pill")).to_have_text("cancelled")  # live, behind its question
    await confirm(second, "Cancel the job")

    await expect(second.locator(".toast")).to_have_text("Cancelled.")
    await expect(second.get_by_role("button", name="Cancel …")).to_have_count(0)
    types = [event.type for event in await world.queue.history(job.id)]
    assert types.count(EventType.CANCELLED) == 1


async def test_of_two_windows_that_retry_all_only_one_buys_again(
    open_page: OpenPage, world: World
) -> None:
    jobs = [await world.hand.fail(await ask(world), ContentBlockedError("no")) for _ in range(2)]
    pages = [await open_page("#/failed") for _ in range(2)]
    for page in pages:
        await page.get_by_role("button", name="Retry those").click()
        await expect(page.get_by_role("button", name="Retry 2 jobs for $1.60")).to_be_enabled()

    for page in pages:
        await confirm(page, "Retry 2 jobs for $1.60")

    await expect(pages[0].locator(".toast")).to_have_text("2 jobs go on.")
    await expect(pages[1].locator(".toast")).to_have_text("0 jobs go on.")
    for job in jobs:
        types = [event.type for event in await world.queue.history(job.id)]
        assert types.count(EventType.RETRIED) == 1


async def test_of_very_many_it_is_said_how_many_go_at_once(
    open_page: OpenPage, world: World
) -> None:
    request = [VideoRequest(provider="sora", prompt=f"number {n}", seconds=4) for n in range(1010)]
    await world.queue.enqueue_many(request)
    async with world.resources.database.connection() as connection:
        await connection.execute(
            "UPDATE video_jobs SET status = 'failed', completed_at = now(), due_at = NULL,"
            " error_code = 'content_blocked', error_message = 'moderation said no'"
        )
    page = await open_page("#/failed")

    await page.get_by_role("button", name="Retry those").click()

    dialog = page.get_by_role("dialog")
    await expect(dialog).to_contain_text("1,000 at once: if there are more, they stay here")
    await expect(dialog.get_by_role("button", name="Retry 1,000 jobs for $400.00")).to_be_enabled()


# --- money ---


async def test_a_budget_is_set_shown_with_what_is_used_and_removed(
    open_page: OpenPage, world: World
) -> None:
    await world.hand.carry(await ask(world, user_id="mira"))
    page = await open_page("#/money", viewport=PHONE, color_scheme="dark")
    await expect(page.get_by_text("Nothing limits what is spent")).to_be_visible()
    spend = page.get_by_role("region", name="What was spent").locator("tbody tr")
    await expect(spend).to_contain_text("$0.80")

    await page.get_by_role("button", name="Set a budget").press("Enter")
    await expect(page.get_by_label("Of", exact=True)).to_have_value("all")
    await page.get_by_label("Dollars").fill("0.90")
    await page.keyboard.press("Enter")

    row = page.get_by_role("region", name="All budgets").locator("tbody tr")
    await expect(row).to_contain_text("all videos a day")
    await expect(row.locator(".status")).to_have_text("88 %")
    await expect(row.get_by_role("meter")).to_have_js_property("value", 800_000)
    await page.evaluate(AXE_SCRIPT)
    assert await violations(page) == []
    assert await page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    await page.get_by_role("combobox", name="By").select_option("user")
    await expect(spend).to_contain_text("mira")
    link = page.get_by_role("link", name="CSV")
    table = await page.request.get(f"{world.url}{await link.get_attribute('href')}")
    assert (await table.text()).splitlines()[1].startswith("mira,server,0.800000")

    await page.get_by_role("button", name="Remove").click()
    await confirm(page, "Remove")
    await expect(page.get_by_text("Nothing limits what is spent")).to_be_visible()
    async with world.resources.database.connection() as connection:
        assert await budgets.listed(connection) == []


async def test_who_may_only_look_sees_budgets_and_sets_none(
    open_page: OpenPage, world: World
) -> None:
    async with world.resources.database.connection() as connection:
        await budgets.put(connection, "provider:veo", "month", 5_000_000, "mira")

    page = await open_page("#/money", token=READER)

    await expect(
        page.get_by_role("region", name="All budgets").locator("tbody tr")
    ).to_contain_text("$5.00")
    await expect(page.get_by_role("button", name="Set a budget")).to_have_count(0)
    await expect(page.get_by_role("button", name="Remove")).to_have_count(0)
