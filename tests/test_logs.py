"""What a log line looks like, whatever is put into it."""

import json
import logging
import os
import pty
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from uuid import UUID

import pytest
from loguru import logger
from pydantic import SecretStr

from vidgen import logs
from vidgen.errors import ResultInvalidError
from vidgen.job import JobStatus

JOB_ID = UUID("01890a5d-ac96-774b-bcce-b302099a8057")


@dataclass(frozen=True)
class Sealed:
    name: str = "shown"
    prompt: str = field(default="hidden", repr=False)


class Unspeakable:
    def __str__(self) -> str:
        raise RuntimeError("no text")

    __repr__ = __str__


@pytest.fixture(autouse=True)
def logging_as_before() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    logger.remove()
    root.handlers[:] = handlers
    root.setLevel(level)
    for name in logs.CHATTY:
        logging.getLogger(name).setLevel(logging.NOTSET)


@pytest.fixture
def lines(capsys: pytest.CaptureFixture[str]) -> "Lines":
    logs.configure("info", "json")
    return Lines(capsys)


class Lines:
    """What was written to stdout since the last look, parsed."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys

    def all(self) -> list[dict[str, object]]:
        written = self._capsys.readouterr()
        assert written.err == ""
        return [json.loads(line) for line in written.out.splitlines()]

    def one(self) -> dict[str, object]:
        (line,) = self.all()
        return line


def test_a_line_has_its_four_words_first_and_then_the_facts(lines: Lines) -> None:
    before = datetime.now(UTC)

    with logger.contextualize(jobId=str(JOB_ID), provider="sora"):
        logger.bind(sceneId="scene-1").info("video submitted", attempt=1)

    line = lines.one()
    timestamp = str(line.pop("timestamp"))
    assert timestamp.endswith("Z")
    assert abs(datetime.fromisoformat(timestamp) - before).total_seconds() < 5
    assert list(line.items()) == [
        ("level", "info"),
        ("message", "video submitted"),
        ("service", "video-worker"),
        ("jobId", str(JOB_ID)),
        ("provider", "sora"),
        ("sceneId", "scene-1"),
        ("attempt", 1),
    ]


def test_values_of_many_kinds_are_written_plainly(lines: Lines) -> None:
    logger.info(
        "facts",
        id=JOB_ID,
        status=JobStatus.FAILED,
        at=datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC),
        key=SecretStr("hunter2"),
        body=b"\xff" * 70,
        sealed=Sealed(),
        words={"one"},
        error=ValueError("odd"),
        none=None,
    )

    line = lines.one()
    assert line["id"] == str(JOB_ID)
    assert line["status"] == "failed"
    assert line["at"] == "2026-01-02T03:04:05Z"
    assert line["key"] == "**********"
    assert line["body"] == "70 bytes"
    assert line["sealed"] == "Sealed(name='shown')"
    assert line["words"] == ["one"]
    assert line["error"] == "ValueError: odd"
    assert line["none"] is None


def test_weird_values_cost_their_beauty_but_not_the_line(lines: Lines) -> None:
    circle: list[object] = []
    circle.append(circle)

    logger.info("one", value=circle)
    logger.info("two", value="\ud800")
    logger.info("three", value=2**70)
    logger.info("four", value=Unspeakable())
    logger.info("five", value=Unspeakable(), other=2**70, number=float("nan"))

    messages = [line["message"] for line in lines.all()]
    assert messages == ["one", "two", "three", "four", "five"]


def test_a_fact_never_replaces_a_word_of_the_line(lines: Lines) -> None:
    logger.info("true", level="false", service="false", timestamp="false")

    line = lines.one()
    assert (line["message"], line["level"], line["service"]) == ("true", "info", "video-worker")
    assert line["level_"] == "false"


def test_braces_and_tags_of_customers_are_text(lines: Lines) -> None:
    logger.info("video failed", reason="{0} {name} {{ <red>")
    logger.info("a message {of} someone <red> else")

    first, second = lines.all()
    assert first["reason"] == "{0} {name} {{ <red>"
    assert second["message"] == "a message {of} someone <red> else"


def test_an_exception_is_an_error_with_type_message_and_traceback(lines: Lines) -> None:
    secret = "hunter2"
    try:
        raise ResultInvalidError(f"{len(secret)} bytes missing")
    except ResultInvalidError:
        logger.exception("transfer failed")

    line = lines.one()
    error = line["error"]
    assert isinstance(error, dict)
    assert (error["type"], error["code"]) == ("ResultInvalidError", "result_invalid")
    assert error["message"] == "7 bytes missing"
    assert "test_logs.py" in error["traceback"]
    assert "hunter2" not in str(line).replace('secret = "hunter2"', "")


def test_lines_below_the_level_are_not_written(lines: Lines) -> None:
    logs.configure("warning", "json")

    logger.info("no")
    logger.warning("yes")

    assert lines.one()["level"] == "warning"


def test_libraries_are_led_here(lines: Lines) -> None:
    logging.getLogger("library").warning("%d of {two}", 1)
    logging.getLogger("library").debug("below the level")

    line = lines.one()
    assert (line["message"], line["logger"]) == ("1 of {two}", "library")


def test_a_library_may_give_arguments_that_do_not_fit(lines: Lines) -> None:
    handlers = logging.getLogger().handlers
    (ours,) = (handler for handler in handlers if type(handler).__module__ == logs.__name__)

    ours.handle(logging.makeLogRecord({"msg": "%d", "args": ("no number",), "levelno": 30}))

    assert lines.one()["message"] == "%d ('no number',)"


def test_arq_speaks_from_warning_on_and_once_only(lines: Lines) -> None:
    arq = logging.getLogger("arq")
    arq.addHandler(logging.StreamHandler(sys.stdout))  # as arq's command line does

    logs.configure("info", "json")
    logging.getLogger("arq.worker").info("chatter")
    logging.getLogger("arq.worker").warning("trouble")

    assert lines.one()["message"] == "trouble"


def test_pretty_lines_show_the_facts_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure("info", "pretty")

    logger.info("video failed", reason="{0} <red> \ud800", attempt=2)

    written = capsys.readouterr()
    assert written.err == ""
    assert r"INFO     video failed reason={0} <red> \ud800 attempt=2" in written.out


def test_auto_is_json_for_machines(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure("info", "auto")

    logger.info("to a pipe")

    assert json.loads(capsys.readouterr().out)["message"] == "to a pipe"


@pytest.mark.skipif(sys.platform == "win32", reason="there are no pseudo-terminals")
def test_auto_is_pretty_on_a_terminal() -> None:
    code = "from vidgen import logs; logs.configure(); logs.logger.info('hello', n=1)"
    ours, theirs = pty.openpty()

    subprocess.run([sys.executable, "-c", code], stdout=theirs, check=True, timeout=30)
    os.close(theirs)
    written = os.read(ours, 4096).decode()
    os.close(ours)

    assert "hello" in written
    assert "n=1" in written
    assert not written.startswith("{")
