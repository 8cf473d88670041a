"""What the makers of the package run: vidgen's own sentences, and a video from wish to bucket."""

from base64 import b64encode
from typing import Any

import orjson
from typer.testing import CliRunner

from vidgen import JobStatus, VideoQueue, VideoRequest
from vidgen.cli import app
from vidgen.providers.protocol import ImageBytes
from vidgen.providers.registry import FindsRecent, ListsVideos
from vidgen.testing import InlineWorker, Simulated
from vidgen.testing.provider_conformance import *  # noqa: F403  the sentences
from vidgen.testing.provider_wire import PROMPT, Format, Wire, wires


def carries(body: dict[str, Any], image: ImageBytes) -> bool:
    return bool(body["start"] == b64encode(image.data).decode())


wire = wires(
    Format(
        name="acme",
        request=VideoRequest(
            provider="acme",
            prompt=PROMPT,
            model="reel-1",
            seconds=8,
            aspect_ratio="16:9",
            resolution="720p",
        ),
        body={"model": "reel-1", "text": PROMPT, "length": 8, "shape": "16:9", "lines": "720p"},
        carries=carries,
        money=("429-insufficient-quota",),
    )
)


async def test_the_sentences_about_lists_are_about_acme(wire: Wire) -> None:
    assert isinstance(wire.provider, FindsRecent)
    assert isinstance(wire.provider, ListsVideos)


async def test_a_video_of_acme_gets_into_the_bucket(
    vidgen_queue: VideoQueue, vidgen_worker: InlineWorker, vidgen_simulator: Simulated
) -> None:
    await vidgen_queue.enqueue(VideoRequest(provider="acme", prompt="a tram"))

    [job] = await vidgen_worker.drain()

    assert job.status is JobStatus.COMPLETED
    assert (job.model, job.actual_cost_micros) == ("reel-1", 80_000)
    assert [charge.prompt for charge in vidgen_simulator["acme"].bill] == ["a tram"]


def test_doctor_and_command_line_know_acme(vidgen_environment: dict[str, str]) -> None:
    assert vidgen_environment["ACME_API_KEY"] == "simulated"

    doctor = CliRunner().invoke(app, ["doctor", "--json"])
    submit = CliRunner().invoke(app, ["submit", "--provider", "acme", "a tram", "--json"])

    found = {each["name"]: each for each in orjson.loads(doctor.output)["checks"]}
    assert found["plug-ins"]["sentence"] == "acme"
    assert found["acme key"]["sentence"] == "accepted"
    assert orjson.loads(submit.output)["model"] == "reel-1"
