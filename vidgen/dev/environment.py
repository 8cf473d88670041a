"""
What the children of dev mode find in their environment: ours, with every setting decided by us.

`Settings` reads the environment of its own process only; here one process makes that of another.
"""

import os
import shlex
from pathlib import Path

from pydantic import SecretStr

from vidgen import catalog
from vidgen.settings import OWN_PREFIX, Settings

LOOPBACK = "127.0.0.1,localhost"


def variables(settings: Settings) -> dict[str, str]:
    """*settings* by their names in the environment; those at their default are empty."""
    ours = {
        str(field.validation_alias): _text(getattr(settings, name), field.default)
        for name, field in Settings.model_fields.items()
    }
    of_plugins = {
        name: settings.variable(name)
        for vendor in catalog.vendors()
        for name in vendor.variables
        if name not in ours
    }
    return ours | of_plugins


def for_child(settings: Settings) -> dict[str, str]:
    """
    The whole environment of a child that shall run with *settings* and nothing else.

    An empty variable is not set, and beats a `.env` file that lies around.
    """
    decided = variables(settings)
    inherited = {
        name: text
        for name, text in os.environ.items()  # noqa: TID251  handed on unread, less what is ours
        if name not in decided and not name.startswith(OWN_PREFIX)
    }
    return inherited | decided


def write_file(path: Path, settings: Settings) -> None:
    """Write *settings* as lines that a shell can `source`; only we may read them."""
    path.touch(mode=0o600)
    path.chmod(0o600)
    lines = [
        f"export {name}={shlex.quote(text)}" for name, text in variables(settings).items() if text
    ]
    path.write_text("\n".join(lines) + "\n")


def reach_loopback_directly() -> None:
    """Keep a proxy, if one is configured, away from our own servers: here and in children."""
    for name in ("NO_PROXY", "no_proxy"):
        said = os.environ.get(name)  # noqa: TID251  what libraries read on their own is no setting
        if not said:
            os.environ[name] = LOOPBACK  # noqa: TID251
        elif LOOPBACK not in said:
            os.environ[name] = f"{said},{LOOPBACK}"  # noqa: TID251


def _text(value: object, default: object) -> str:
    if value is None or value == default:
        return ""
    return value.get_secret_value() if isinstance(value, SecretStr) else str(value)
