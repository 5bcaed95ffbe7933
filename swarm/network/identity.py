"""Who we are: an ed25519 key in a file, and the peer id that contains its public half.

The file holds libp2p's protobuf of a private key (type Ed25519, seed and public key), the only form
that the daemon reads. The peer id is the identity multihash of the public key's protobuf, so that
whoever knows the id can check signatures. Source: github.com/libp2p/specs, peer-ids.
"""

from __future__ import annotations

import fcntl
import os
import tempfile
from datetime import UTC, datetime
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from hivemind.p2p import PeerID

from swarm.errors import IdentityInUse, UsageError
from swarm.log import get_logger
from swarm.types import PeerId

_PRIVATE_HEAD = bytes.fromhex("08011240")
"""Protobuf fields: 1 (type) = 1 (Ed25519), 2 (data) of 64 bytes: seed, public key."""

_PEER_HEAD = bytes.fromhex("0024" + "08011220")
"""Multihash identity of 36 bytes, then the protobuf: type Ed25519, data of 32 bytes: public key."""

_MAX_ID_LENGTH = 64
"""An ed25519 peer id has 52 characters; base58 takes quadratic time, so longer text is not even decoded."""

logger = get_logger(__name__)


class Identity:
    """An ed25519 key, its file, and the lock that keeps a second process from using it.

    Attributes:
        peer_id: Base58 id that others know us by.
        path: The key file, as long as it exists: a temporary one goes at `forget_file` or `close`.
    """

    def __init__(self, key: Ed25519PrivateKey, path: Path, *, is_temporary: bool, lock: int | None) -> None:
        self._key = key
        self._is_temporary = is_temporary
        self._lock = lock
        self.path = path
        self.peer_id = peer_id_of_key(key.public_key())

    @classmethod
    def load(cls, path: Path | None) -> Identity:
        """Read the key file, creating it (mode 0600, its folders 0700) when missing; None is a fresh key.

        The lock is held until `close`, or the process's end.

        Raises:
            IdentityInUse: Another live process, or another identity of this one, uses the file.
            UsageError: The file cannot be read or written, or holds no ed25519 key of libp2p.
        """
        if path is None:
            return cls._ephemeral()
        path = path.expanduser().absolute()
        lock = None
        try:
            for folder in reversed(path.parents):  # mkdir(parents=True) would make the upper ones public
                folder.mkdir(mode=0o700, exist_ok=True)
            lock = _take_lock(path)
            if not path.exists():
                _write_key(path, Ed25519PrivateKey.generate())
            return cls(_read_key(path), path, is_temporary=False, lock=lock)
        except BaseException as error:
            if lock is not None:
                os.close(lock)
            if isinstance(error, OSError):
                raise UsageError(f"identity {path}: {error.strerror}; choose another --identity-path") from error
            raise

    @classmethod
    def _ephemeral(cls) -> Identity:
        key = Ed25519PrivateKey.generate()
        file, name = tempfile.mkstemp(prefix="swarm-identity-")
        with os.fdopen(file, "wb") as stream:
            stream.write(_to_bytes(key))
        return cls(key, Path(name), is_temporary=True, lock=None)

    def sign(self, payload: bytes) -> bytes:
        """Return the 64-byte ed25519 signature of `payload`."""
        return self._key.sign(payload)

    def certificate(self) -> tuple[bytes, bytes]:
        """Return a self-signed certificate (DER) of our public key, and the private key (PEM), for TLS.

        Nobody reads its names and dates: peers compare the key with the peer id.
        """
        name = x509.Name([])
        certificate = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(name)
            .public_key(self._key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(datetime(2000, 1, 1, tzinfo=UTC))
            .not_valid_after(datetime(9999, 1, 1, tzinfo=UTC))
            .sign(self._key, None)
        )
        key = self._key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        return certificate.public_bytes(Encoding.DER), key

    def forget_file(self) -> None:
        """Remove a temporary key file, which nobody needs once the daemon has read it."""
        if self._is_temporary:
            self.path.unlink(missing_ok=True)

    def close(self) -> None:
        """Give the key file free for another process; remove a temporary one."""
        self.forget_file()
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None


def verify(peer: PeerId, signature: bytes, payload: bytes) -> bool:
    """Whether `signature` is `peer`'s own of `payload`; anything malformed is False."""
    if not isinstance(peer, str) or len(peer) > _MAX_ID_LENGTH:
        return False
    try:
        packed = PeerID.from_base58(peer).to_bytes()
        if len(packed) != len(_PEER_HEAD) + 32 or not packed.startswith(_PEER_HEAD):
            return False
        Ed25519PublicKey.from_public_bytes(packed[len(_PEER_HEAD) :]).verify(signature, payload)
    except (InvalidSignature, ValueError, TypeError):
        return False
    return True


def peer_id_of_key(key: Ed25519PublicKey) -> PeerId:
    """Return the peer id that contains this public key."""
    return PeerId(PeerID(_PEER_HEAD + key.public_bytes_raw()).to_base58())


def peer_id_of_packed(key: bytes) -> PeerId:
    """Return the peer id of a public key in libp2p's protobuf, as it stands in its certificates."""
    return PeerId(PeerID(_PEER_HEAD[:2] + key).to_base58())


def peer_id_in(path: Path) -> PeerId:
    """Return the peer id of a key file without taking the key: another process may be running with it.

    Raises:
        UsageError: The file cannot be read, or holds no ed25519 key of libp2p.
    """
    path = path.expanduser().absolute()
    try:
        return peer_id_of_key(_read_key(path).public_key())
    except OSError as error:
        raise UsageError(f"identity {path}: {error.strerror}; choose another --identity-path") from error


def _to_bytes(key: Ed25519PrivateKey) -> bytes:
    return _PRIVATE_HEAD + key.private_bytes_raw() + key.public_key().public_bytes_raw()


def _write_key(path: Path, key: Ed25519PrivateKey) -> None:
    # Written aside and renamed: a crash in between leaves no half key. mkstemp's files are 0600.
    file, name = tempfile.mkstemp(dir=path.parent, prefix=path.name)
    try:
        with os.fdopen(file, "wb") as stream:
            stream.write(_to_bytes(key))
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def _read_key(path: Path) -> Ed25519PrivateKey:
    with path.open("rb") as stream:
        packed = stream.read(4096)
        if os.fstat(stream.fileno()).st_mode & 0o077:
            logger.warning("identity %s can be read by others; run: chmod 600 %s", path, path)
    seed = packed[len(_PRIVATE_HEAD) : len(_PRIVATE_HEAD) + 32]
    if len(seed) == 32:
        key = Ed25519PrivateKey.from_private_bytes(seed)
        if _to_bytes(key) == packed:
            return key
    raise UsageError(f"identity {path} holds no ed25519 key of libp2p; choose another --identity-path or remove it")


def _take_lock(path: Path) -> int:
    # A file of its own, which is never removed: removing a locked file would let a third process lock a new one.
    beside = path.with_name(path.name + ".lock")
    lock = os.open(beside, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.ftruncate(lock, 0)
        os.pwrite(lock, str(os.getpid()).encode(), 0)
        return lock
    except BlockingIOError as error:
        holder = os.pread(lock, 16, 0).decode(errors="replace").strip() or "unknown"
        os.close(lock)
        raise IdentityInUse(
            f"identity {path} is in use by process {holder}; stop it or choose another --identity-path"
        ) from error
    except BaseException:
        os.close(lock)
        raise
