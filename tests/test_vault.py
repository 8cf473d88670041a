"""An envelope opens for the one it was sealed for, whole and unaltered, and for nobody else."""

import base64
from dataclasses import replace
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vidgen import vault
from vidgen.errors import KeyUnreadableError, NoEncryptionKeyError
from vidgen.settings import Settings
from vidgen.vault import MIN_BYTES, Owner, Vault, key_id, key_id_of

OLD, NEW, OTHER = (bytes([number]) * 32 for number in (1, 2, 3))
SECRET = "sk-planted-0123456789abcdef"
ALICE = Owner(user_id="alice", provider="sora", api="openai", row_id=UUID(int=7))

words = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
owners = st.builds(
    Owner,
    user_id=words,
    provider=st.sampled_from(["sora", "veo", ""]),
    api=st.sampled_from(["openai", "gemini", "vertex", ""]),
    row_id=st.uuids(),
)


@given(secret=words, owner=owners)
def test_what_was_sealed_opens(secret: str, owner: Owner) -> None:
    ring = Vault([NEW, OLD])

    envelope = ring.seal(secret, owner)

    assert ring.open(envelope, owner) == secret
    assert len(envelope) == MIN_BYTES + len(secret.encode())


def flipped(envelope: bytes, bit: int) -> bytes:
    changed = bytearray(envelope)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


@given(secret=words, owner=owners, data=st.data())
def test_an_envelope_with_any_bit_flipped_is_refused(
    secret: str, owner: Owner, data: st.DataObject
) -> None:
    ring = Vault([NEW, OLD])
    envelope = ring.seal(secret, owner)
    bit = data.draw(st.integers(0, len(envelope) * 8 - 1))

    with pytest.raises(KeyUnreadableError):
        ring.open(flipped(envelope, bit), owner)


def test_each_single_bit_of_an_envelope_counts() -> None:
    ring = Vault([NEW, OLD])
    envelope = ring.seal(SECRET, ALICE)

    for bit in range(len(envelope) * 8):
        with pytest.raises(KeyUnreadableError):
            ring.open(flipped(envelope, bit), ALICE)


def test_an_envelope_cut_anywhere_at_either_end_is_refused() -> None:
    ring = Vault([NEW])
    envelope = ring.seal(SECRET, ALICE)

    for length in range(len(envelope)):
        for cut in (envelope[:length], envelope[len(envelope) - length :]):
            with pytest.raises(KeyUnreadableError):
                ring.open(cut, ALICE)


@given(tail=st.binary(min_size=1, max_size=64))
def test_an_envelope_with_something_behind_it_is_refused(tail: bytes) -> None:
    ring = Vault([NEW])

    with pytest.raises(KeyUnreadableError):
        ring.open(ring.seal(SECRET, ALICE) + tail, ALICE)


@given(noise=st.binary(max_size=256))
def test_noise_is_refused(noise: bytes) -> None:
    with pytest.raises(KeyUnreadableError):
        Vault([NEW, OLD]).open(noise, ALICE)


@given(one=owners, other=owners)
def test_an_envelope_of_another_user_provider_interface_or_row_is_refused(
    one: Owner, other: Owner
) -> None:
    ring = Vault([NEW])
    envelope = ring.seal(SECRET, one)

    if one == other:
        assert ring.open(envelope, other) == SECRET
    else:
        with pytest.raises(KeyUnreadableError):
            ring.open(envelope, other)


@pytest.mark.parametrize(
    "change",
    [
        {"user_id": "bob"},
        {"provider": "veo"},
        {"api": "vertex"},
        {"row_id": UUID(int=8)},
        # As one text these would be the same.
        {"user_id": "alices", "provider": "ora"},
        {"provider": "soraopen", "api": "ai"},
    ],
    ids=str,
)
def test_no_part_of_the_owner_may_differ(change: dict[str, str]) -> None:
    ring = Vault([NEW])

    with pytest.raises(KeyUnreadableError, match="altered, or belongs to another"):
        ring.open(ring.seal(SECRET, ALICE), replace(ALICE, **change))  # type: ignore[arg-type]


def test_the_first_key_seals_and_every_key_opens() -> None:
    before, after = Vault([OLD]), Vault([NEW, OLD])

    assert after.open(before.seal(SECRET, ALICE), ALICE) == SECRET
    assert key_id_of(after.seal(SECRET, ALICE)) == key_id(NEW) == after.newest
    assert after.key_ids == (key_id(NEW), key_id(OLD))


def test_a_ring_without_the_key_says_which_one_it_lacks() -> None:
    envelope = Vault([OLD]).seal(SECRET, ALICE)

    with pytest.raises(KeyUnreadableError) as caught:
        Vault([NEW, OTHER]).open(envelope, ALICE)

    assert caught.value.code == "key_unreadable"
    assert key_id(OLD).hex() in caught.value.message
    assert key_id(NEW).hex() in caught.value.message


def test_a_key_that_only_claims_to_be_the_right_one_is_refused() -> None:
    envelope = Vault([OLD]).seal(SECRET, ALICE)
    relabelled = envelope[:1] + key_id(NEW) + envelope[9:]

    with pytest.raises(KeyUnreadableError):
        Vault([NEW, OLD]).open(relabelled, ALICE)


def test_another_version_is_told_by_its_number() -> None:
    envelope = Vault([NEW]).seal(SECRET, ALICE)

    with pytest.raises(KeyUnreadableError, match="version 2 is not known"):
        Vault([NEW]).open(b"\x02" + envelope[1:], ALICE)


def test_without_a_key_nothing_is_sealed_and_nothing_opens() -> None:
    with pytest.raises(NoEncryptionKeyError, match="openssl rand -base64 32"):
        Vault().seal(SECRET, ALICE)
    with pytest.raises(KeyUnreadableError, match="it is empty"):
        Vault().open(Vault([NEW]).seal(SECRET, ALICE), ALICE)


def test_the_same_secret_never_looks_the_same() -> None:
    ring = Vault([NEW])

    assert len({ring.seal(SECRET, ALICE) for _ in range(100)}) == 100


def test_neither_vault_nor_error_shows_a_key_or_a_secret() -> None:
    ring = Vault([NEW])
    with pytest.raises(KeyUnreadableError) as caught:
        ring.open(ring.seal(SECRET, ALICE)[:-1], ALICE)

    shown = repr(ring) + repr(caught.value) + str(caught.value.__cause__)
    assert SECRET not in shown
    assert repr(NEW)[2:-1] not in shown
    assert base64.b64encode(NEW).decode() not in shown


def test_an_envelope_of_the_first_release_still_opens() -> None:
    """Version 1 is on disk somewhere: this one was sealed by the release that introduced it."""
    envelope = base64.b64decode(
        "Acz1YuWVJkFbPcHdvp37wgVGPOGsszyTZZdLa+UWE8bKFqwIzqG1SYV40/tlaILc4QFzU9hTbQfu"
        "7gwIImJ0C63rLmRde6alnALMow=="
    )

    assert Vault([NEW]).open(envelope, ALICE) == SECRET


def test_the_ring_is_read_from_the_settings_newest_first() -> None:
    text = ",".join(base64.b64encode(key).decode() for key in (NEW, OLD))

    ring = Vault(Settings.model_validate({"ENCRYPTION_KEYS": text}).encryption_key_bytes)

    assert ring.key_ids == (key_id(NEW), key_id(OLD))
    assert len(ring.newest) == vault.KEY_ID_BYTES
