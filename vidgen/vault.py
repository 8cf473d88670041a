"""
Provider keys at rest: sealed by XChaCha20-Poly1305 under the key ring of `ENCRYPTION_KEYS`.

    envelope    version  key id   nonce     ciphertext and tag
    bytes             1       8      24     length of the secret + 16

The key id says which key of the ring opens the envelope; it is a hash and gives nothing away.
Header and owner (whose key, for which provider and interface, in which row) are associated data: an
envelope that was altered, cut, or moved to another row does not open. Nothing opened is kept here.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

from nacl.bindings import (
    crypto_aead_xchacha20poly1305_ietf_ABYTES,
    crypto_aead_xchacha20poly1305_ietf_decrypt,
    crypto_aead_xchacha20poly1305_ietf_encrypt,
    crypto_aead_xchacha20poly1305_ietf_NPUBBYTES,
)
from nacl.exceptions import CryptoError
from nacl.utils import random

from vidgen.errors import KeyUnreadableError, NoEncryptionKeyError

VERSION = b"\x01"
KEY_ID_BYTES = 8
_NONCE_BYTES = crypto_aead_xchacha20poly1305_ietf_NPUBBYTES
_HEADER_BYTES = len(VERSION) + KEY_ID_BYTES
# Shorter than this no envelope is, even around nothing.
MIN_BYTES = _HEADER_BYTES + _NONCE_BYTES + crypto_aead_xchacha20poly1305_ietf_ABYTES


@dataclass(frozen=True, slots=True, kw_only=True)
class Owner:
    """
    What an envelope belongs to, and opens for.

    Attributes:
        api: The interface of the provider: `openai`, `gemini` or `vertex`.
        row_id: Of the row in `provider_keys`.
    """

    user_id: str
    provider: str
    api: str
    row_id: UUID

    def bound_to(self, header: bytes) -> bytes:
        """The associated data; each part with its length, so that none lends to its neighbour."""
        parts = (self.user_id.encode(), self.provider.encode(), self.api.encode())
        told = b"".join(len(part).to_bytes(4, "big") + part for part in parts)
        return b"vidgen provider key\0" + header + told + self.row_id.bytes


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

    def seal(self, secret: str, owner: Owner) -> bytes:
        """
        The envelope around *secret*, for *owner* only.

        Raises:
            NoEncryptionKeyError: No key is set.
        """
        header = VERSION + self.newest
        nonce = random(_NONCE_BYTES)
        sealed: bytes = crypto_aead_xchacha20poly1305_ietf_encrypt(
            secret.encode(), owner.bound_to(header), nonce, self._keys[self.newest]
        )
        return header + nonce + sealed

    def open(self, envelope: bytes, owner: Owner) -> str:
        """
        The secret in *envelope*.

        Raises:
            KeyUnreadableError: The ring lacks its key, or it was altered, cut or moved here.
        """
        found, nonce_at = key_id_of(envelope), _HEADER_BYTES
        key = self._keys.get(found)
        if key is None:
            raise KeyUnreadableError(
                f"The stored key {owner.row_id} is sealed under the encryption key {found.hex()},"
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
                f"The stored key {owner.row_id} does not open: it was altered, or belongs to"
                " another user, provider or row."
            ) from None
        return opened.decode()

    def _told(self) -> str:
        ids = ", ".join(key.hex() for key in self._keys)
        return f"it has {ids}" if ids else "it is empty"


def key_id(key: bytes) -> bytes:
    """What names an encryption key in envelopes: the beginning of a hash."""
    return hashlib.sha256(b"vidgen encryption key\0" + key).digest()[:KEY_ID_BYTES]


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
