from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from hivemind.p2p import PeerID
from hivemind.proto import crypto_pb2
from hypothesis import given
from hypothesis import strategies as st

from swarm.errors import IdentityInUse, UsageError
from swarm.network import Identity, NetworkConfig, Peer, verify
from swarm.types import PeerId


def test_a_missing_key_is_created_private_in_private_folders(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "key"
    identity = Identity.load(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o700
    assert sorted(entry.name for entry in path.parent.iterdir()) == ["key", "key.lock"]
    identity.close()


def test_the_key_file_is_the_protobuf_of_libp2p(tmp_path: Path) -> None:
    identity = Identity.load(tmp_path / "key")
    key = crypto_pb2.PrivateKey.FromString((tmp_path / "key").read_bytes())
    assert key.key_type == crypto_pb2.KeyType.Ed25519 and len(key.data) == 64
    packed = PeerID.from_base58(identity.peer_id).to_bytes()
    assert packed[-32:] == key.data[32:]
    Ed25519PublicKey.from_public_bytes(key.data[32:]).verify(identity.sign(b"x"), b"x")
    identity.close()


async def test_the_daemon_has_the_peer_id_that_we_derive_and_keeps_it_over_a_restart(tmp_path: Path) -> None:
    config = NetworkConfig(identity_path=tmp_path / "key")
    async with Peer.open(config) as peer:
        first = peer.peer_id
        assert str(peer.p2p.peer_id) == first
    async with Peer.open(config) as peer:
        assert peer.peer_id == first and str(peer.addrs[0]).endswith(first)


def test_a_second_identity_on_the_same_key_is_told_who_has_it(tmp_path: Path) -> None:
    identity = Identity.load(tmp_path / "key")
    with pytest.raises(IdentityInUse, match=f"{tmp_path}/key is in use by process {os.getpid()};"):
        Identity.load(tmp_path / "key")
    identity.close()
    Identity.load(tmp_path / "key").close()


def test_a_second_process_on_the_same_key_is_told_who_has_it(tmp_path: Path) -> None:
    code = (
        "import sys, pathlib\nfrom swarm.network.identity import Identity\n"
        "identity = Identity.load(pathlib.Path(sys.argv[1]))\nprint(identity.peer_id, flush=True)\nsys.stdin.read()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path / "key")], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None
        theirs = other.stdout.readline().strip()
        with pytest.raises(IdentityInUse, match=f"by process {other.pid};"):
            Identity.load(tmp_path / "key")
        other.kill()
    identity = Identity.load(tmp_path / "key")
    assert identity.peer_id == theirs
    identity.close()


@pytest.mark.parametrize("content", [b"", b"garbage", b"\x08\x01\x12\x40" + b"x" * 64, b"\x08\x00\x12\x40" + b"x" * 64])
def test_a_file_that_holds_no_key_of_ours_is_refused_and_left_alone(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "key"
    path.write_bytes(content)
    with pytest.raises(UsageError, match=f"{path} holds no ed25519 key"):
        Identity.load(path)
    assert path.read_bytes() == content
    path.unlink()
    Identity.load(path).close()


def test_a_place_where_no_key_can_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match=f"identity {tmp_path}/file/key"):
        Identity.load(tmp_path / "file" / "key")


def test_a_fresh_key_leaves_no_file_behind() -> None:
    identity = Identity.load(None)
    assert identity.path.exists()
    identity.close()
    assert not identity.path.exists()


def test_a_signature_counts_for_its_peer_and_payload_only(tmp_path: Path) -> None:
    mine, other = Identity.load(None), Identity.load(None)
    signature = mine.sign(b"payload")
    assert verify(mine.peer_id, signature, b"payload")
    assert not verify(mine.peer_id, signature, b"payloae")
    assert not verify(other.peer_id, signature, b"payload")
    mine.close()
    other.close()


@given(
    st.text(max_size=80) | st.just("Qm" + "x" * 44) | st.just("1" * 70), st.binary(max_size=80), st.binary(max_size=20)
)
def test_malformed_ids_and_signatures_verify_nothing(peer: str, signature: bytes, payload: bytes) -> None:
    assert not verify(PeerId(peer), signature, payload)
