"""
Where the buckets lie: names in one SQLite file, bytes in one file per object or part.

A file is written under a name of its own first and becomes an object only by the commit of its row:
a reader sees the old object or the new one, and a crash leaves at most a file for the next start to
remove.

Everything here blocks, and is called in threads.
"""

import hashlib
import json
import shutil
import sqlite3
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Any
from uuid import uuid4

from vidgen.simulator.s3.body import Received
from vidgen.simulator.s3.wire import S3Error

MIN_PART_BYTES = 5 << 20
_SCHEMA = """
CREATE TABLE IF NOT EXISTS buckets (name TEXT PRIMARY KEY, created_at TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS configurations (
    bucket TEXT, key TEXT, name TEXT, body BLOB NOT NULL, PRIMARY KEY (bucket, key, name));
CREATE TABLE IF NOT EXISTS objects (
    bucket TEXT, key TEXT, file TEXT NOT NULL, size INTEGER NOT NULL, etag TEXT NOT NULL,
    modified_at TEXT NOT NULL, facts TEXT NOT NULL, PRIMARY KEY (bucket, key));
CREATE TABLE IF NOT EXISTS uploads (
    id TEXT PRIMARY KEY, bucket TEXT NOT NULL, key TEXT NOT NULL, created_at TEXT NOT NULL,
    facts TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS parts (
    upload TEXT, number INTEGER, file TEXT NOT NULL, size INTEGER NOT NULL, etag TEXT NOT NULL,
    modified_at TEXT NOT NULL, checksums TEXT NOT NULL, PRIMARY KEY (upload, number));
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What a client says about an object: standard headers, its own metadata, checksums."""

    headers: Mapping[str, str] = field(default_factory=dict)
    metadata: Mapping[str, str] = field(default_factory=dict)
    checksums: Mapping[str, str] = field(default_factory=dict)

    def dump(self) -> str:
        """Write it for a row."""
        return json.dumps([dict(self.headers), dict(self.metadata), dict(self.checksums)])

    @classmethod
    def load(cls, text: str) -> "Facts":
        """Read it from a row."""
        headers, metadata, checksums = json.loads(text)
        return cls(headers=headers, metadata=metadata, checksums=checksums)


@dataclass(frozen=True, slots=True, kw_only=True)
class Object:
    """One object."""

    key: str
    path: Path
    size_bytes: int
    etag: str
    modified_at: datetime
    facts: Facts


@dataclass(frozen=True, slots=True, kw_only=True)
class Upload:
    """One multipart upload that is neither completed nor aborted."""

    id: str
    bucket: str
    key: str
    created_at: datetime
    facts: Facts


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One part of an upload."""

    number: int
    path: Path
    size_bytes: int
    etag: str
    modified_at: datetime
    checksums: Mapping[str, str]


Precondition = Callable[[Object | None], None]


class Disk:
    """Buckets, objects and uploads below one folder, for one process."""

    def __init__(self, folder: Path) -> None:
        """Open the folder, and remove what a crash left in it."""
        self.files = folder / "files"
        self.files.mkdir(parents=True, exist_ok=True)
        self._lock = threading.RLock()
        self._db = sqlite3.connect(folder / "index.sqlite3", check_same_thread=False)
        # Survives a killed process. A power cut may cost the last objects: it is for development.
        self._db.executescript("PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL;" + _SCHEMA)
        known = {
            row[0]
            for row in self._db.execute("SELECT file FROM objects UNION SELECT file FROM parts")
        }
        for path in self.files.iterdir():
            if path.name not in known:
                path.unlink(missing_ok=True)

    def close(self) -> None:
        """Close the index."""
        with self._lock:
            self._db.close()

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self._lock, self._db:
            yield self._db

    # Buckets

    def create_bucket(self, name: str) -> None:
        """Make a bucket, or refuse because it is there."""
        with self._transaction() as db:
            if db.execute("SELECT 1 FROM buckets WHERE name = ?", (name,)).fetchone():
                raise S3Error(409, "BucketAlreadyOwnedByYou", "The bucket exists.")
            db.execute("INSERT INTO buckets VALUES (?, ?)", (name, _now()))

    def delete_bucket(self, name: str) -> None:
        """Remove an empty bucket with its unfinished uploads."""
        with self._transaction() as db:
            if db.execute("SELECT 1 FROM objects WHERE bucket = ? LIMIT 1", (name,)).fetchone():
                raise S3Error(409, "BucketNotEmpty", "The bucket still holds objects.")
            for (upload,) in db.execute(
                "SELECT id FROM uploads WHERE bucket = ?", (name,)
            ).fetchall():
                self.abort(upload)
            db.execute("DELETE FROM configurations WHERE bucket = ?", (name,))
            db.execute("DELETE FROM buckets WHERE name = ?", (name,))

    def buckets(self) -> list[tuple[str, datetime]]:
        """Names and dates of birth."""
        with self._lock:
            rows = self._db.execute("SELECT name, created_at FROM buckets ORDER BY name").fetchall()
        return [(name, datetime.fromisoformat(at)) for name, at in rows]

    def require_bucket(self, name: str) -> None:
        """Refuse unless there is such a bucket."""
        with self._lock:
            if not self._db.execute("SELECT 1 FROM buckets WHERE name = ?", (name,)).fetchone():
                raise S3Error(404, "NoSuchBucket", "The specified bucket does not exist.")

    def configure(self, bucket: str, key: str, name: str, body: bytes | None) -> None:
        """Keep one configuration document of a bucket or an object; None removes it."""
        with self._transaction() as db:
            place = (bucket, key, name)
            db.execute("DELETE FROM configurations WHERE (bucket, key, name) = (?, ?, ?)", place)
            if body is not None:
                db.execute("INSERT INTO configurations VALUES (?, ?, ?, ?)", (*place, body))

    def configuration(self, bucket: str, key: str, name: str) -> bytes | None:
        """Give what `configure` kept."""
        with self._lock:
            row = self._db.execute(
                "SELECT body FROM configurations WHERE (bucket, key, name) = (?, ?, ?)",
                (bucket, key, name),
            ).fetchone()
        return None if row is None else bytes(row[0])

    # Objects

    def put(
        self, bucket: str, key: str, received: Received, facts: Facts, condition: Precondition
    ) -> Object:
        """Make what was received the object, if *condition* accepts the one before."""
        return self._replace(bucket, key, received.path, received.md5, facts, condition)

    def _replace(
        self, bucket: str, key: str, path: Path, etag: str, facts: Facts, condition: Precondition
    ) -> Object:
        with self._transaction() as db:
            self.require_bucket(bucket)
            before = self.find(bucket, key)
            condition(before)
            row = (bucket, key, path.name, path.stat().st_size, etag, _now(), facts.dump())
            db.execute("INSERT OR REPLACE INTO objects VALUES (?, ?, ?, ?, ?, ?, ?)", row)
            self.configure(bucket, key, "Tagging", None)
        if before is not None:
            before.path.unlink(missing_ok=True)
        return self._object(row[1:])

    def find(self, bucket: str, key: str) -> Object | None:
        """Give an object, None if there is none."""
        with self._lock:
            row = self._db.execute(
                "SELECT key, file, size, etag, modified_at, facts FROM objects"
                " WHERE bucket = ? AND key = ?",
                (bucket, key),
            ).fetchone()
        return None if row is None else self._object(row)

    def get(self, bucket: str, key: str) -> Object:
        """Give an object, or refuse."""
        self.require_bucket(bucket)
        found = self.find(bucket, key)
        if found is None:
            raise S3Error(404, "NoSuchKey", "The specified key does not exist.")
        return found

    def delete(self, bucket: str, keys: Sequence[str]) -> None:
        """Remove objects; those that are not there are fine."""
        self.require_bucket(bucket)
        with self._transaction() as db:
            found = [one for key in keys if (one := self.find(bucket, key))]
            for key in keys:
                db.execute("DELETE FROM objects WHERE bucket = ? AND key = ?", (bucket, key))
                db.execute("DELETE FROM configurations WHERE bucket = ? AND key = ?", (bucket, key))
        for one in found:
            one.path.unlink(missing_ok=True)

    def walk(self, bucket: str, prefix: str, after: str) -> Iterator[Object]:
        """Give the objects below *prefix* after the key *after*, in order, a page at a time."""
        start = max(prefix, after)
        while True:
            with self._lock:
                rows = self._db.execute(
                    "SELECT key, file, size, etag, modified_at, facts FROM objects"
                    " WHERE bucket = ? AND key >= ? ORDER BY key LIMIT 500",
                    (bucket, start),
                ).fetchall()
            for row in rows:
                if not row[0].startswith(prefix):
                    return
                if row[0] > after:
                    yield self._object(row)
            if len(rows) < 500:
                return
            start = after = rows[-1][0]

    def copy(self, source: Path, start: int = 0, end: int | None = None) -> Received:
        """Give a new file with the bytes from *start* to *end* of another."""
        path, md5, size = self.files / uuid4().hex, hashlib.md5(usedforsecurity=False), 0
        with source.open("rb") as old, path.open("wb") as new:
            old.seek(start)
            while piece := old.read(1 << 20 if end is None else min(1 << 20, end - start - size)):
                new.write(piece)
                md5.update(piece)
                size += len(piece)
        return Received(path=path, size_bytes=size, md5=md5.hexdigest())

    def _object(self, row: Sequence[Any]) -> Object:
        key, file, size, etag, at, facts = row
        return Object(
            key=key,
            path=self.files / file,
            size_bytes=int(size),
            etag=etag,
            modified_at=datetime.fromisoformat(at),
            facts=Facts.load(facts),
        )

    # Multipart uploads

    def begin(self, bucket: str, key: str, facts: Facts) -> str:
        """Open an upload; its id."""
        self.require_bucket(bucket)
        upload = uuid4().hex
        with self._transaction() as db:
            row = (upload, bucket, key, _now(), facts.dump())
            db.execute("INSERT INTO uploads VALUES (?, ?, ?, ?, ?)", row)
        return upload

    def uploads(self, bucket: str | None = None, prefix: str = "") -> list[Upload]:
        """Give the open uploads, by key and age."""
        with self._lock:
            rows = self._db.execute(
                "SELECT id, bucket, key, created_at, facts FROM uploads"
                " ORDER BY key, created_at, id"
            ).fetchall()
        return [
            Upload(
                id=row[0],
                bucket=row[1],
                key=row[2],
                created_at=datetime.fromisoformat(row[3]),
                facts=Facts.load(row[4]),
            )
            for row in rows
            if bucket in {None, row[1]} and row[2].startswith(prefix)
        ]

    def upload(self, bucket: str, key: str, upload: str) -> Upload:
        """Give an open upload, or refuse."""
        self.require_bucket(bucket)
        for found in self.uploads(bucket, key):
            if found.id == upload and found.key == key:
                return found
        raise S3Error(404, "NoSuchUpload", "The upload does not exist, or is over.")

    def put_part(self, upload: Upload, number: int, received: Received) -> None:
        """Keep a part, in place of an earlier one of that number."""
        with self._transaction() as db:
            self.upload(upload.bucket, upload.key, upload.id)
            before = [part.path for part in self.parts(upload.id) if part.number == number]
            db.execute(
                "INSERT OR REPLACE INTO parts VALUES (?, ?, ?, ?, ?, ?, ?)",
                (
                    upload.id,
                    number,
                    received.path.name,
                    received.size_bytes,
                    received.md5,
                    _now(),
                    json.dumps(received.checksums),
                ),
            )
        for path in before:
            path.unlink(missing_ok=True)

    def parts(self, upload: str) -> list[Part]:
        """Give the parts that came so far, by number."""
        with self._lock:
            rows = self._db.execute(
                "SELECT number, file, size, etag, modified_at, checksums FROM parts"
                " WHERE upload = ? ORDER BY number",
                (upload,),
            ).fetchall()
        return [
            Part(
                number=row[0],
                path=self.files / row[1],
                size_bytes=row[2],
                etag=row[3],
                modified_at=datetime.fromisoformat(row[4]),
                checksums=json.loads(row[5]),
            )
            for row in rows
        ]

    def complete(
        self,
        upload: Upload,
        wanted: Sequence[tuple[int, str]],
        checksums: Callable[[Sequence[Part]], Mapping[str, str]],
        condition: Precondition,
    ) -> Object:
        """Put the *wanted* parts (number, ETag) together into the object."""
        chosen = self._choose(upload, wanted)
        condition(self.find(upload.bucket, upload.key))
        path = self.files / uuid4().hex
        try:
            with path.open("wb") as whole:
                for part in chosen:
                    with part.path.open("rb") as piece:
                        shutil.copyfileobj(piece, whole, 1 << 20)
            digests = b"".join(bytes.fromhex(part.etag) for part in chosen)
            etag = f"{hashlib.md5(digests, usedforsecurity=False).hexdigest()}-{len(chosen)}"
            facts = Facts(
                headers=upload.facts.headers,
                metadata=upload.facts.metadata,
                checksums=checksums(chosen),
            )
            with self._transaction():
                self.upload(upload.bucket, upload.key, upload.id)
                done = self._replace(upload.bucket, upload.key, path, etag, facts, condition)
                self.abort(upload.id)
        except BaseException:
            path.unlink(missing_ok=True)
            raise
        return done

    def _choose(self, upload: Upload, wanted: Sequence[tuple[int, str]]) -> list[Part]:
        if not wanted:
            raise S3Error(400, "MalformedXML", "At least one part is needed.")
        numbers = [number for number, _ in wanted]
        if any(a >= b for a, b in pairwise(numbers)):
            raise S3Error(400, "InvalidPartOrder", "Parts must be listed in ascending order.")
        there = {part.number: part for part in self.parts(upload.id)}
        for number, etag in wanted:
            if number not in there or there[number].etag != etag.strip('"'):
                raise S3Error(400, "InvalidPart", f"Part {number} is not there, or another.")
        chosen = [there[number] for number in numbers]
        if any(part.size_bytes < MIN_PART_BYTES for part in chosen[:-1]):
            raise S3Error(400, "EntityTooSmall", "A part is smaller than 5 MiB.")
        return chosen

    def abort(self, upload: str) -> None:
        """Drop an upload and its parts."""
        with self._transaction() as db:
            paths = [part.path for part in self.parts(upload)]
            db.execute("DELETE FROM parts WHERE upload = ?", (upload,))
            db.execute("DELETE FROM uploads WHERE id = ?", (upload,))
        for path in paths:
            path.unlink(missing_ok=True)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")
