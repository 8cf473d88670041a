"""The first minutes of somebody new: `vidgen dev` in an empty folder, and then only the page."""

import asyncio
import re
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from playwright.async_api import Page, expect

from tests.server.browser.conftest import TOGETHER, OpenPage
from tests.server.test_app import free_port

pytestmark = TOGETHER

START_TIMEOUT_S = 60
MADE_MS = 60_000
STOP_TIMEOUT_S = 15
# Notes each new value of the bar, as somebody who watches it.
WATCH = """bar => {
    window.watched = [bar.value];
    const note = () => window.watched.at(-1) !== bar.value && window.watched.push(bar.value);
    new MutationObserver(note).observe(bar, { attributes: true });
}"""


@asynccontextmanager
async def dev(folder: Path) -> AsyncIterator[tuple[str, str]]:
    """`vidgen dev` until the end of the context: where its page is, and the token, as printed."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "vidgen", "dev", "--port", str(free_port())),
        cwd=folder,
        env={"PATH": "/usr/bin:/bin", "HOME": str(folder)},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    assert process.stdout is not None
    try:
        said = ""
        async with asyncio.timeout(START_TIMEOUT_S):
            while "worker ready" not in said:
                line = await process.stdout.readline()
                assert line, said
                said += line.decode()
        found = re.search(r"Dashboard\s+(\S+)\s+Admin token\s+(\S+)", said)
        assert found is not None, said
        yield found[1], found[2]
        process.send_signal(signal.SIGINT)
        async with asyncio.timeout(STOP_TIMEOUT_S):
            await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.communicate()
    assert process.returncode == 128 + signal.SIGINT


async def make(page: Page, prompt: str) -> None:
    await page.get_by_role("link", name="New video").click()
    await page.get_by_label("Prompt").fill(prompt)
    await page.get_by_role("button", name="Make the video").click()


async def test_a_newcomer_makes_watches_plays_cancels_and_retries(
    open_page: OpenPage, tmp_path: Path
) -> None:
    async with dev(tmp_path) as (address, token):
        page = await open_page(url=address.rstrip("/"), token=None, allow="401")
        await page.get_by_label("Token").fill(token)
        await page.keyboard.press("Enter")
        await expect(page.locator(".pill")).to_have_text("running")
        pill = page.locator(".pill")

        await make(page, "a tram in the rain [[sim:generate 6]]")
        await expect(pill).to_have_text("generating")
        await page.get_by_role("progressbar").evaluate(WATCH)
        await expect(pill).to_have_text("completed", timeout=MADE_MS)
        watched = await page.evaluate("window.watched")
        assert len(watched) > 2
        assert watched == sorted(watched)
        video = page.locator("video")
        await video.evaluate("async video => { video.muted = true; await video.play() }")
        await video.evaluate(
            "video => new Promise(done => video.addEventListener('timeupdate',"
            " () => video.currentTime > 0.2 && done()))"
        )

        await make(page, "a boat [[sim:generate 600]]")
        await expect(pill).to_have_text("generating")
        await page.get_by_role("button", name="Cancel …").click()
        await page.get_by_role("button", name="Cancel the job").click()
        await expect(pill).to_have_text("cancelled")

        await make(page, "a fox [[sim:generate 0.2]] [[sim:moderation x1]]")
        await expect(pill).to_have_text("failed")
        await expect(page.locator(".banner.bad")).to_contain_text("content_blocked")
        await page.get_by_role("button", name="Retry …").click()
        await page.get_by_role("button", name="Retry for $0.40").click()
        await expect(pill).to_have_text("completed", timeout=MADE_MS)
        await expect(page.locator("video")).to_be_visible()
        await page.close()
