"""Keys of private swarms: their files, and what they prove and seal."""

from __future__ import annotations

import copy
import pickle
import stat
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swarm.errors import UsageError
from swarm.swarm_key import KEY_BYTES, SwarmKey

KEY, OTHER = SwarmKey(b"k" * 32), SwarmKey(b"o" * 32)


def test_a_key_comes_back_from_its_file_which_is_its_owners_alone(tmp_path: Path) -> None:
    key, path = SwarmKey.generate(), tmp_path / "new" / "folder" / "swarm.key"
    key.write(path)
    assert SwarmKey.read(path) == key and key != SwarmKey.generate()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600 and stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert list(path.parent.iterdir()) == [path]


def test_a_key_is_never_written_over_another(tmp_path: Path) -> None:
    KEY.write(tmp_path / "key")
    with pytest.raises(UsageError, match="there already"):
        OTHER.write(tmp_path / "key")
    assert SwarmKey.read(tmp_path / "key") == KEY


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o622])
def test_a_file_that_others_may_open_is_refused_with_the_remedy(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "key"
    KEY.write(path)
    path.chmod(mode)
    with pytest.raises(UsageError, match=f"chmod 600 {path}"):
        SwarmKey.read(path)


@pytest.mark.parametrize(
    "content", [b"", b"k" * 32, b"swarm-key-1 " + b"0" * 63, b"swarm-key-2 " + b"0" * 64, b"swarm-key-1 " * 1000]
)
def test_other_files_are_no_keys(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "key"
    path.write_bytes(content)
    path.chmod(0o600)
    with pytest.raises(UsageError, match=str(path)):
        SwarmKey.read(path)


def test_a_missing_file_tells_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="swarm keygen"):
        SwarmKey.read(tmp_path / "none")


def test_no_text_of_a_key_shows_it() -> None:
    key = SwarmKey.generate()
    secret = key.to_bytes()
    for text in (repr(key), str(key), f"{key}", key.fingerprint):
        assert secret.hex() not in text and repr(secret) not in text and len(text) < 40
    assert key.fingerprint not in secret.hex() and key.fingerprint in repr(key)
    for spread in (pickle.dumps, copy.copy):
        with pytest.raises(TypeError):
            spread(key)


@pytest.mark.parametrize("length", [0, 31, 33, 64])
def test_a_key_of_another_length_is_none(length: int) -> None:
    with pytest.raises(UsageError, match=str(KEY_BYTES)):
        SwarmKey(b"x" * length)


def test_a_proof_holds_for_its_key_its_use_and_its_parts_only() -> None:
    proof = KEY.prove("use", b"ab", b"c")
    assert KEY.is_proof(proof, "use", b"ab", b"c")
    assert not OTHER.is_proof(proof, "use", b"ab", b"c")
    assert not KEY.is_proof(proof, "other use", b"ab", b"c")
    for parts in ((b"a", b"bc"), (b"abc",), (b"ab", b"c", b""), (b"ab", b"d")):
        assert not KEY.is_proof(proof, "use", *parts)
    assert not KEY.is_proof(b"", "use", b"ab", b"c") and not KEY.is_proof(proof[:-1], "use", b"ab", b"c")


@given(st.binary(max_size=300), st.binary(max_size=40), st.integers(0, 2**16), st.integers(0, 7))
def test_what_is_sealed_opens_at_its_place_and_nowhere_else(content: bytes, place: bytes, at: int, bit: int) -> None:
    sealed = KEY.seal("use", content, place=place)
    assert KEY.unseal("use", sealed, place=place) == content
    assert KEY.seal("use", content, place=place) != sealed
    changed = bytearray(sealed)
    changed[at % len(sealed)] ^= 1 << bit
    wrong = [
        OTHER.unseal("use", sealed, place=place),
        KEY.unseal("other use", sealed, place=place),
        KEY.unseal("use", sealed, place=place + b"x"),
        KEY.unseal("use", bytes(changed), place=place),
        KEY.unseal("use", sealed[: at % len(sealed)], place=place),
    ]
    assert wrong == [None] * len(wrong)
    assert len(content) < 8 or content not in sealed
