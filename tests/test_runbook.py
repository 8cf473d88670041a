"""The runbook names what there is, and its back-up can be restored."""

import asyncio
import re
import sys
from pathlib import Path

import typer.main
import yaml
from prometheus_client.metrics import MetricWrapperBase

from tests.by_hand import Hand
from tests.conftest import environment_of
from vidgen import VideoQueue, VideoRequest, errors, metrics
from vidgen.cli import app
from vidgen.dev.servers import find_postgres
from vidgen.errors import VidgenError
from vidgen.job import EventType
from vidgen.settings import Settings

ROOT = Path(__file__).parents[1]
RUNBOOK = (ROOT / "deploy" / "RUNBOOK.md").read_text()
WORDS = set(re.findall(r"`([^`\n]+)`", RUNBOOK))
ALERTS = yaml.safe_load((ROOT / "deploy" / "prometheus-rules.yml").read_text())
BLOCKS = re.findall(r"```bash\n(.*?)```", RUNBOOK, re.DOTALL)


def test_every_command_is_one_with_its_options() -> None:
    known = typer.main.get_command(app)
    told = {word for word in WORDS if word.startswith("vidgen ")}
    told |= {line for text in BLOCKS for line in text.splitlines() if line.startswith("vidgen ")}
    assert len(told) > 15
    for line in told:
        command, words = known, line.partition("#")[0].split()[1:]
        while words and hasattr(command, "commands") and words[0] in command.commands:
            command = command.commands[words.pop(0)]
        assert command is not known, line
        options = {option for each in command.params for option in each.opts}
        assert {word for word in words if word.startswith("--")} <= options, line


def test_every_setting_code_event_and_alert_is_one() -> None:
    settings = {str(info.validation_alias) for info in Settings.model_fields.values()}
    codes = {kind.code for kind in vars(errors).values() if _is_error(kind)}
    alerts = {rule["alert"] for group in ALERTS["groups"] for rule in group["rules"]}
    events = set(EventType)
    named = {re.split(r"[ =]", word)[0] for word in WORDS}

    assert {word for word in named if re.fullmatch(r"VIDGEN_[A-Z_]+", word)} <= settings
    assert {word for word in named if re.fullmatch(r"Vidgen[A-Z]\w+", word)} == alerts
    underscored = {word for word in named if re.fullmatch(r"[a-z]+(_[a-z]+)+", word)}
    assert underscored - _OF_OTHERS <= codes | events


def test_every_metric_is_one_with_its_labels() -> None:
    known = {
        vars(each)["_name"]: set(vars(each)["_labelnames"])
        for each in vars(metrics).values()
        if isinstance(each, MetricWrapperBase)
    }
    told = [re.fullmatch(r"(vidgen_\w+)(?:\{(.*)\})?", word) for word in WORDS]
    told_by_name = {each[1]: each[2] or "" for each in told if each}

    assert told_by_name.keys() <= known.keys()
    assert {"vidgen_queue_jobs", "vidgen_event_loop_lag_seconds"} <= told_by_name.keys()
    for name, labels in told_by_name.items():
        assert set(re.findall(r"(\w+)=", labels)) <= known[name], name


_OF_OTHERS = {
    *("n_dead_tup", "video_jobs", "job_events", "pg_stat_activity", "pg_stat_user_tables"),
    *("target_session_attrs", "deadline_s", "vidgen_event_loop_lag_seconds", "worker_lost"),
}


def _is_error(kind: object) -> bool:
    return isinstance(kind, type) and issubclass(kind, VidgenError)


def test_every_symptom_leads_to_its_section() -> None:
    sections = {
        re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-")
        for title in re.findall(r"^## (.+)$", RUNBOOK, re.MULTILINE)
    }
    assert set(re.findall(r"\]\(#([\w-]+)\)", RUNBOOK)) <= sections


async def test_a_back_up_is_restored_as_it_says(
    settings: Settings, empty_database_url: str, tmp_path: Path
) -> None:
    async with VideoQueue(settings) as queue:
        video = VideoRequest(provider="sora", prompt="a tram", seconds=4)
        made = await Hand(queue).carry(await queue.enqueue(video))
        waiting = await queue.enqueue(video)
    dump, restore = (text for text in BLOCKS if "vidgen.dump" in text)

    await _typed(dump, settings, settings.database_url, tmp_path)
    await _typed(restore, settings, empty_database_url, tmp_path)

    restored = settings.model_copy(update={"database_url": empty_database_url})
    async with VideoQueue(restored) as queue:
        assert [await queue.get(job.id) for job in (made, waiting)] == [made, waiting]
        assert [event.type for event in await queue.history(made.id)][-1] is EventType.COMPLETED


async def _typed(block: str, settings: Settings, database_url: str, folder: Path) -> None:
    environment = environment_of(settings) | {"DATABASE_URL": database_url}
    folders = [find_postgres(), Path(sys.executable).parent, environment["PATH"]]
    environment["PATH"] = ":".join(map(str, folders))
    process = await asyncio.create_subprocess_exec(
        *("bash", "-euo", "pipefail", "-c", block), cwd=folder, env=environment
    )
    async with asyncio.timeout(120):
        assert await process.wait() == 0
