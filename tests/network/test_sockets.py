from __future__ import annotations

import socket
from pathlib import Path

import pytest

from swarm.network.sockets import tune

ALLOWED = Path("/proc/sys/net/ipv4/tcp_allowed_congestion_control")


def test_a_tuned_socket_sends_at_once() -> None:
    with socket.socket() as sock:
        tune(sock)
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


@pytest.mark.skipif(not ALLOWED.exists() or "bbr" not in ALLOWED.read_text().split(), reason="BBR is not for us here")
def test_a_tuned_socket_has_a_congestion_control_that_outlives_pauses() -> None:
    with socket.socket() as sock:
        tune(sock)
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, 16).rstrip(b"\0") == b"bbr"


def test_a_system_without_it_is_good_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    class Old(socket.socket):
        def setsockopt(self, level: int, option: int, value: object) -> None:  # type: ignore[override]
            if option == getattr(socket, "TCP_CONGESTION", None):
                raise FileNotFoundError(2, "no such congestion control")
            super().setsockopt(level, option, value)  # type: ignore[arg-type]

    with Old() as sock:
        tune(sock)
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
    monkeypatch.delattr(socket, "TCP_CONGESTION", raising=False)
    with socket.socket() as sock:
        tune(sock)
