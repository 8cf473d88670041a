"""A backend that needs nothing: the package and its metadata in a zip file, as PEP 427 wants it."""

import tomllib
import zipfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent
PACKAGE = "acme_video"


def build_wheel(
    wheel_directory: str,
    config_settings: dict[str, Any] | None = None,
    metadata_directory: str | None = None,
) -> str:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    named = f"{PACKAGE}-{project['version']}"
    points = "\n".join(
        "\n".join([f"[{group}]", *(f"{name} = {value}" for name, value in entries.items())])
        for group, entries in project["entry-points"].items()
    )
    texts = {
        path.relative_to(ROOT).as_posix(): path.read_text() for path in ROOT.glob(f"{PACKAGE}/*.py")
    }
    texts |= {
        f"{named}.dist-info/METADATA": f"Metadata-Version: 2.1\nName: {project['name']}\n"
        f"Version: {project['version']}\n",
        f"{named}.dist-info/WHEEL": "Wheel-Version: 1.0\nGenerator: acme\n"
        "Root-Is-Purelib: true\nTag: py3-none-any\n",
        f"{named}.dist-info/entry_points.txt": f"{points}\n",
    }
    record = f"{named}.dist-info/RECORD"
    texts[record] = "".join(f"{name},,\n" for name in (*texts, record))
    wheel = f"{named}-py3-none-any.whl"
    with zipfile.ZipFile(Path(wheel_directory) / wheel, "w") as file:
        for name, text in texts.items():
            file.writestr(name, text)
    return wheel
