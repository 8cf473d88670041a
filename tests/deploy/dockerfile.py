"""What the Dockerfile says, and its steps done in a folder, without a container engine."""

import fnmatch
import json
import os
import re
import shlex
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
MOVED = ("/opt/", "/src", "/wheels")  # what the build makes; the rest of a system is that of here


@dataclass(frozen=True, slots=True, kw_only=True)
class Instruction:
    word: str
    rest: str

    @property
    def command(self) -> list[str]:
        """Of the exec form, behind options and CMD of a HEALTHCHECK."""
        words: list[str] = json.loads(self.rest[self.rest.index("[") :])
        return words


def stage(name: str) -> list[Instruction]:
    """The instructions of one stage, in order."""
    found: list[Instruction] = []
    at = ""
    text = re.sub(r"(?m)^#.*\n", "", (ROOT / "Dockerfile").read_text()).replace("\\\n", " ")
    for line in filter(str.strip, text.splitlines()):
        word, rest = line.split(maxsplit=1)
        if word == "FROM":
            at = rest.rpartition(" AS ")[2]
        elif at == name:
            found.append(Instruction(word=word, rest=rest))
    return found


def last(instructions: list[Instruction], word: str) -> Instruction:
    return [each for each in instructions if each.word == word][-1]


def environment(instructions: list[Instruction]) -> dict[str, str]:
    pairs = [
        word.partition("=")
        for each in instructions
        if each.word == "ENV"
        for word in shlex.split(each.rest)
    ]
    return {name: text for name, _, text in pairs}


def context(folder: Path) -> Path:
    """*folder* with what the build sees of the repository: all but what .dockerignore names."""
    for path in _files(ROOT):
        if not _is_ignored(path):
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / path, folder / path)
    return folder


def build(name: str, seen: Path, root: Path) -> None:
    """Do what the stage *name* says below *root*, with the files *seen* as its context."""
    source = root / "src"
    source.mkdir(parents=True)
    for each in stage(name):
        if each.word == "COPY":
            *sources, target = each.rest.split()
            for path in sources:
                _copy(seen / path, source / target, is_folder=target.endswith("/"))
        elif each.word == "RUN":
            done = subprocess.run(
                ["sh", "-ec", moved(each.rest, root)],
                cwd=source,
                capture_output=True,
                text=True,
                check=False,
            )
            assert done.returncode == 0, f"{each.rest}\n{done.stdout}\n{done.stderr}"


def moved(text: str, root: Path) -> str:
    """*text* with the places of the image below *root*."""
    return re.sub(rf"(?<![\w.])({'|'.join(MOVED)})", rf"{root}\1", text)


def _copy(path: Path, target: Path, *, is_folder: bool) -> None:
    assert path.exists(), f"{path.name} is not there, or .dockerignore keeps it away"
    if path.is_dir():
        shutil.copytree(path, target, dirs_exist_ok=True)
        return
    target.mkdir(parents=True, exist_ok=True) if is_folder else None
    shutil.copy(path, target)


def _files(root: Path) -> list[str]:
    found = []
    for folder, folders, names in os.walk(root):
        at = Path(folder).relative_to(root)
        # Large, and none of them asked for by name; .dockerignore is tried on all the others.
        folders[:] = [each for each in folders if each not in {".git", ".venv", ".vidgen"}]
        found += [str(at / name) for name in names]
    return found


def _is_ignored(path: str) -> bool:
    """As Docker decides: the last line that fits the file, or a folder it lies in."""
    ignored = False
    parts = Path(path).parts
    names = ["/".join(parts[: count + 1]) for count in range(len(parts))]
    for line in (ROOT / ".dockerignore").read_text().splitlines():
        pattern = line.strip()
        if pattern and not pattern.startswith("#"):
            is_exception = pattern.startswith("!")
            if any(_fits(name, pattern.lstrip("!")) for name in names):
                ignored = not is_exception
    return ignored


def _fits(name: str, pattern: str) -> bool:
    if pattern.startswith("**/"):
        return fnmatch.fnmatchcase(Path(name).name, pattern.removeprefix("**/"))
    if name.count("/") != pattern.count("/"):
        return False
    return fnmatch.fnmatchcase(name, pattern)
