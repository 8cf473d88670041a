"""
Provider keys and prompts at rest: sealed by XChaCha20-Poly1305 under the key ring of
`ENCRYPTION_KEYS`.

    envelope    version  key id   nonce     ciphertext and tag
    bytes             1       8      24     length of the secret + 16

The key id says which key of the ring opens the envelope; it is a hash and gives nothing away.
Header and owner (whose key, for which provider and interface, in which row; or which part of which
job) are associated data: an envelope that was altered, cut, or moved to another row does not open.
Nothing opened is kept here.

libsodium is loaded when something is sealed or opened: services that do neither import us as well.
"""

import hashlib
import hmac
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol
from uuid import UUID

from vidgen.errors import KeyUnreadableError, NoEncryptionKeyError

VERSION = b"\x01"
KEY_ID_BYTES = 8
_NONCE_BYTES, _TAG_BYTES = 24, 16  # of XChaCha20-Poly1305
_HEADER_BYTES = len(VERSION) + KEY_ID_BYTES
# Shorter than this no envelope is, even around nothing.
MIN_BYTES = _HEADER_BYTES + _NONCE_BYTES + _TAG_BYTES


class Bound(Protocol):
    """What an envelope belongs to, and opens for."""

    @property
    def told(self) -> str:
        """What is in it, for a sentence."""

    @property
    def others(self) -> str:
        """What it may belong to instead."""

    def bound_to(self, header: bytes) -> bytes:
        """The associated data."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Owner:
    """
    Whose provider key an envelope holds.

    Attributes:
        api: The interface of the provider: `openai`, `gemini` or `vertex`.
        row_id: Of the row in `provider_keys`.
    """

    user_id: str
    provider: str
    api: str
    row_id: UUID

    @property
    def told(self) -> str:
        """What is in it, for a sentence."""
        return f"stored key {self.row_id}"

    @property
    def others(self) -> str:
        """What it may belong to instead."""
        return "another user, provider or row"

    def bound_to(self, header: bytes) -> bytes:
        """The associated data; each part with its length, so that none lends to its neighbour."""
        parts = (self.user_id.encode(), self.provider.encode(), self.api.encode())
        told = b"".join(len(part).to_bytes(4, "big") + part for part in parts)
        return b"vidgen provider key\0" + header + told + self.row_id.bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class JobPart:
    """
    Which part of which job an envelope holds.

    Attributes:
        name: `prompt` (with all other words), or `image` and its position.
    """

    job_id: UUID
    name: str

    @property
    def told(self) -> str:
        """What is in it, for a sentence."""
        return f"{self.name} of job {self.job_id}"

    @property
    def others(self) -> str:
        """What it may belong to instead."""
        return "another job or part"

    def bound_to(self, header: bytes) -> bytes:
        """The associated data."""
        return b"vidgen job\0" + header + self.job_id.bytes + self.name.encode()


class Vault:
    """Seals under the first key of the ring, opens under any."""

    def __init__(self, keys: Sequence[bytes] = ()) -> None:
        """Hold *keys* of 32 bytes, the newest first; without any nothing is sealed or opened."""
        self._keys = {key_id(key): key for key in keys}

    def __repr__(self) -> str:
        """How many keys, and nothing of them."""
        return f"Vault({len(self._keys)} keys)"

    @property
    def key_ids(self) -> tuple[bytes, ...]:
        """Of the keys in the ring, the newest first; empty without any."""
        return tuple(self._keys)

    @property
    def newest(self) -> bytes:
        """
        The id of the key that seals.

        Raises:
            NoEncryptionKeyError: There is none.
        """
        if not self._keys:
            raise NoEncryptionKeyError(
                "Nothing can be sealed without a key: set ENCRYPTION_KEY (openssl rand -base64 32)."
            )
        return next(iter(self._keys))

    def seal(self, secret: str, owner: Bound) -> bytes:
        """
        The envelope around *secret*, for *owner* only.

        Raises:
            NoEncryptionKeyError: There is no key to seal with.
        """
        return self.seal_bytes(secret.encode(), owner)

    def seal_bytes(self, data: bytes, owner: Bound) -> bytes:
        """
        The envelope around *data*, for *owner* only.

        Raises:
            NoEncryptionKeyError: There is no key to seal with.
        """
        from nacl.bindings import crypto_aead_xchacha20poly1305_ietf_encrypt

        header, nonce = VERSION + self.newest, secrets.token_bytes(_NONCE_BYTES)
        sealed: bytes = crypto_aead_xchacha20poly1305_ietf_encrypt(
            data, owner.bound_to(header), nonce, self._keys[self.newest]
        )
        return header + nonce + sealed

    def open(self, envelope: bytes, owner: Bound) -> str:
        """
        The secret in *envelope*.

        Raises:
            KeyUnreadableError: The ring lacks its key, or it was altered, cut or moved here.
        """
        return self.open_bytes(envelope, owner).decode()

    def open_bytes(self, envelope: bytes, owner: Bound) -> bytes:
        """
        The data in *envelope*.

        Raises:
            KeyUnreadableError: The ring lacks its key, or it was altered, cut or moved here.
        """
        from nacl.bindings import crypto_aead_xchacha20poly1305_ietf_decrypt
        from nacl.exceptions import CryptoError

        found, nonce_at = key_id_of(envelope), _HEADER_BYTES
        key = self._keys.get(found)
        if key is None:
            raise KeyUnreadableError(
                f"The {owner.told} is sealed under the encryption key {found.hex()},"
                f" which ENCRYPTION_KEYS lacks ({self._told()})."
            )
        header, nonce = envelope[:nonce_at], envelope[nonce_at : nonce_at + _NONCE_BYTES]
        try:
            opened: bytes = crypto_aead_xchacha20poly1305_ietf_decrypt(
                envelope[nonce_at + _NONCE_BYTES :], owner.bound_to(header), nonce, key
            )
        except CryptoError:
            # Without the cause: nobody can tell more from it, and its frames had the key at hand.
            raise KeyUnreadableError(
                f"The {owner.told} does not open: it was altered, or belongs to {owner.others}."
            ) from None
        return opened

    def fingerprints(self, text: str) -> tuple[str, ...]:
        """
        What tells that two texts are equal and gives neither away: one for each key of the ring,
        the newest first.
        """
        return tuple(
            hmac.new(_fingerprint_key(key), text.encode(), hashlib.sha256).hexdigest()
            for key in self._keys.values()
        )

    def _told(self) -> str:
        ids = ", ".join(key.hex() for key in self._keys)
        return f"it has {ids}" if ids else "it is empty"


def key_id(key: bytes) -> bytes:
    """What names an encryption key in envelopes: the beginning of a hash."""
    return hashlib.sha256(b"vidgen encryption key\0" + key).digest()[:KEY_ID_BYTES]


def _fingerprint_key(key: bytes) -> bytes:
    """One key, one use: what seals makes no hashes."""
    return hmac.digest(key, b"vidgen fingerprint", hashlib.sha256)


def key_id_of(envelope: bytes) -> bytes:
    """
    Which key sealed *envelope*.

    Raises:
        KeyUnreadableError: It is cut, or of a version that this release does not know.
    """
    if len(envelope) < MIN_BYTES:
        raise KeyUnreadableError(
            f"A stored key does not open: {len(envelope)} bytes are no whole envelope."
        )
    if envelope[: len(VERSION)] != VERSION:
        raise KeyUnreadableError(
            f"A stored key does not open: its version {envelope[0]} is not known to this release."
        )
    return envelope[len(VERSION) : _HEADER_BYTES]
