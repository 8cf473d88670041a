"""
Log lines: one JSON object each for machines, one coloured line each for people.

    {"timestamp": "…Z", "level": "info", "message": "…", "service": "video-worker", "jobId": …}

Everything goes through loguru; what libraries say through the standard library is led there, too.
"""

import json
import logging
import sys
import traceback
from collections.abc import Mapping
from dataclasses import is_dataclass
from datetime import UTC
from typing import TYPE_CHECKING

import orjson
from loguru import logger

from vidgen.errors import VidgenError
from vidgen.settings import LogFormat, LogLevel

if TYPE_CHECKING:
    from loguru import Message, Record, RecordException

SERVICE = "video-worker"

# They tell each step of their own work at info; ours is told by the transitions.
CHATTY = ("aiobotocore", "aiohttp.access", "arq", "asyncio", "botocore", "google", "urllib3")

_ORJSON_OPTIONS = (
    orjson.OPT_APPEND_NEWLINE
    | orjson.OPT_NON_STR_KEYS
    | orjson.OPT_UTC_Z
    # orjson would write every field; the repr leaves out what is not to be shown.
    | orjson.OPT_PASSTHROUGH_DATACLASS
)


def configure(level: LogLevel = "info", format: LogFormat = "auto") -> None:
    """Write log lines to stdout from now on; call it once, when the process starts."""
    pretty = format == "pretty" or (format == "auto" and sys.stdout.isatty())
    logger.remove()
    if pretty:
        logger.add(sys.stdout, level=level.upper(), format=_pretty, backtrace=False, diagnose=False)
    else:
        # The sink reads the record; loguru need not render anything.
        logger.add(_write_json, level=level.upper(), format="", backtrace=False, diagnose=False)
    _lead_standard_logging_here(logger.level(level.upper()).no)


def _write_json(message: "Message") -> None:
    sys.stdout.write(_json_line(message.record))
    sys.stdout.flush()


def _json_line(record: "Record") -> str:
    line: dict[str, object] = {
        "timestamp": record["time"]
        .astimezone(UTC)
        .replace(tzinfo=None)
        .isoformat("T", "milliseconds")
        + "Z",
        "level": record["level"].name.lower(),
        "message": record["message"],
        "service": SERVICE,
    }
    if record["exception"] is not None:
        line["error"] = _error(record["exception"])
    for key, value in record["extra"].items():
        line[f"{key}_" if key in line else key] = value
    try:
        return orjson.dumps(line, default=_plain, option=_ORJSON_OPTIONS).decode()
    except (TypeError, RecursionError):
        # Lone surrogates, integers over 64 bits, circles: a line with reprs is better than none.
        return json.dumps({key: _simplest(value) for key, value in line.items()}) + "\n"


def _error(exception: "RecordException") -> dict[str, object]:
    kind, value, trace = exception
    error: dict[str, object] = {
        "type": kind.__name__ if kind else "",
        "message": _text(value),
    }
    if isinstance(value, VidgenError):
        error["code"] = value.code
    if trace is not None:
        error["traceback"] = "".join(traceback.format_exception(kind, value, trace))
    return error


def _plain(value: object) -> object:
    """What orjson may write for a *value* it does not know."""
    if isinstance(value, bytes | bytearray | memoryview):
        return f"{len(value)} bytes"
    if isinstance(value, set | frozenset | tuple):
        return list(value)
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, BaseException):
        return f"{type(value).__name__}: {_text(value)}"
    return repr(value) if is_dataclass(value) else _text(value)


def _simplest(value: object) -> str | int | None:
    if value is None or isinstance(value, str | int):
        return value
    try:
        return repr(_plain(value) if isinstance(value, bytes | bytearray) else value)
    except Exception as error:  # noqa: BLE001  somebody else's repr: a log line must not fail on it
        return f"<{type(value).__name__} without repr: {type(error).__name__}>"


def _text(value: object) -> str:
    try:
        return str(value)
    except Exception as error:  # noqa: BLE001  somebody else's str: a log line must not fail on it
        return f"<{type(value).__name__} without text: {type(error).__name__}>"


def _pretty(record: "Record") -> str:
    """The template of one line, as loguru wants it: braces and tags in it would have a meaning."""
    fields = " ".join(f"{key}={_text(value)}" for key, value in record["extra"].items())
    # This dict belongs to this one message, and text that is looked up in it is not parsed.
    record["extra"]["fields"] = fields.encode(errors="backslashreplace").decode()
    return (
        "<dim>{time:HH:mm:ss.SSS}</dim> <level>{level.name:<8}</level> {message}"
        + (" <dim>{extra[fields]}</dim>" if fields else "")
        + "\n{exception}"
    )


def _lead_standard_logging_here(level_no: int) -> None:
    logging.basicConfig(handlers=[_ToLoguru()], level=level_no, force=True)
    for name in CHATTY:
        library = logging.getLogger(name)
        # arq's command line hangs a handler of its own on its logger.
        library.handlers.clear()
        library.propagate = True
        library.setLevel(max(level_no, logging.WARNING))


class _ToLoguru(logging.Handler):
    """Hands what libraries log to loguru, with the name of their logger as a field."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            message = record.getMessage()
        except (TypeError, ValueError, KeyError):  # arguments that do not fit the message
            message = f"{record.msg} {record.args}"
        try:
            level: str | int = logger.level(record.levelname).name
        except ValueError:
            level = record.levelno
        logger.bind(logger=record.name).opt(exception=record.exc_info).log(level, message)
