"""The key of a private swarm: 32 random bytes that every member has, and nobody else.

Nothing is ever sealed with the key itself: each use has a key of its own that follows from it and a name, so that
what one use shows says nothing about the others. The file holds one line, `swarm-key-1` and 64 hexadecimal digits.

Sources: HMAC, RFC 2104; ChaCha20-Poly1305, RFC 8439.
"""

from __future__ import annotations

import hmac
import re
import secrets
from functools import lru_cache
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from swarm.errors import UsageError
from swarm.private_file import read_private, write_private

KEY_BYTES = 32

PROOF_BYTES = 32
"""Of what `SwarmKey.prove` returns: a whole SHA-256."""

_NONCE_BYTES = 12
_TAG_BYTES = 16
SEAL_BYTES = _NONCE_BYTES + _TAG_BYTES
"""By which a sealed value is longer than what is in it."""

_LINE = re.compile(rb"swarm-key-1 ([0-9a-f]{64})\n?")
_MAX_FILE_BYTES = 256


class SwarmKey:
    """The key of a private swarm. Its text shows a short fingerprint, which is public, and nothing else."""

    __slots__ = ("_secret", "fingerprint")

    def __init__(self, secret: bytes) -> None:
        if len(secret) != KEY_BYTES:
            raise UsageError(f"a swarm key has {KEY_BYTES} bytes, not {len(secret)}")
        self._secret = secret
        self.fingerprint = _derived(secret, "fingerprint")[:8].hex()

    @classmethod
    def generate(cls) -> SwarmKey:
        """Return a new key."""
        return cls(secrets.token_bytes(KEY_BYTES))

    @classmethod
    def read(cls, path: Path) -> SwarmKey:
        """Return the key in a file.

        Raises:
            UsageError: No such file, others may read it, or it holds no swarm key; says what to do.
        """
        path = path.expanduser()
        try:
            content = read_private(path, max_bytes=_MAX_FILE_BYTES)
        except OSError as error:
            raise UsageError(f"swarm key {path}: {error.strerror}; make one with `swarm keygen {path}`") from error
        match = _LINE.fullmatch(content)
        if match is None:
            raise UsageError(f"{path} holds no swarm key; make one with `swarm keygen FILE`")
        return cls(bytes.fromhex(match[1].decode()))

    def write(self, path: Path) -> None:
        """Write the key to a new file of mode 0600.

        Raises:
            UsageError: There is a file already, or it cannot be written.
        """
        path = path.expanduser().absolute()
        if path.exists():
            raise UsageError(
                f"{path} is there already, and a key that is lost cannot be had again; choose another name"
            )
        try:
            write_private(path, b"swarm-key-1 " + self._secret.hex().encode() + b"\n")
        except OSError as error:
            raise UsageError(f"swarm key {path}: {error.strerror}; choose another place") from error

    def to_bytes(self) -> bytes:
        """Return the secret itself: for a join line, and for the file of the swarm that was joined."""
        return self._secret

    def prove(self, use: str, *parts: bytes) -> bytes:
        """Return what only a member can say about `parts`, for one use; `PROOF_BYTES` bytes."""
        framed = b"".join(len(part).to_bytes(4, "big") + part for part in parts)
        return hmac.digest(_derived(self._secret, use), framed, "sha256")

    def is_proof(self, proof: bytes, use: str, *parts: bytes) -> bool:
        """Whether a member said `proof` about `parts`; takes as long for any wrong one."""
        return hmac.compare_digest(proof, self.prove(use, *parts))

    def seal(self, use: str, content: bytes, *, place: bytes) -> bytes:
        """Return `content` encrypted, readable by members only, and only as what stands at `place`.

        Nonces are random: after 2**32 values sealed for one use the chance that two of them are equal is 2**-33.
        """
        nonce = secrets.token_bytes(_NONCE_BYTES)
        return nonce + ChaCha20Poly1305(_derived(self._secret, use)).encrypt(nonce, content, place)

    def unseal(self, use: str, sealed: bytes, *, place: bytes) -> bytes | None:
        """Return what was sealed by a member for this use and place; None if it was not."""
        if len(sealed) < SEAL_BYTES:
            return None
        cipher = ChaCha20Poly1305(_derived(self._secret, use))
        try:
            return cipher.decrypt(sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:], place)
        except InvalidTag:
            return None

    def __repr__(self) -> str:
        return f"<SwarmKey {self.fingerprint}>"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, SwarmKey) and hmac.compare_digest(self._secret, other._secret)

    def __hash__(self) -> int:
        return hash(self.fingerprint)

    def __reduce__(self) -> str:
        raise TypeError("a swarm key is not pickled: it would end in places that nobody thinks of")


@lru_cache(maxsize=64)
def _derived(secret: bytes, use: str) -> bytes:
    return hmac.digest(secret, b"swarm private 1\0" + use.encode(), "sha256")
