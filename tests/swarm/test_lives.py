"""How servers come, choose, go and come back: commands as people type them."""

from __future__ import annotations

import re
import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch

from swarm import AutoModelForCausalLM
from swarm.client import SwarmForCausalLM, Timeouts
from swarm.client.bridge import bridge
from swarm.demo.processes import LocalSwarm, Process, local_swarm
from swarm.errors import BlocksMissing, UnavailableError
from tests.builders import make_llama, some_ids
from tests.swarm.reference import FP32, Reference

pytestmark = pytest.mark.slow

LOOPBACK = ("--host-maddrs", "/ip4/127.0.0.1/tcp/0")
EXACT = (*LOOPBACK, *FP32)
READY = re.compile(r"ready peer=(12D3KooW\w+) blocks=(\d+:\d+) model=(\S+) addr=(/ip4/[\d.]+/tcp/\d+/p2p/12D3KooW\w+)")


@contextmanager
def running(*args: str, log: Path | None = None) -> Iterator[Process]:
    """Run a command of ours; stop it at the end if it has not ended."""
    process = Process.start(*args, log=log)
    try:
        yield process
    finally:
        process.stop()


def daemons_of(process: Process) -> list[psutil.Process]:
    """The libp2p daemons that a command has started."""
    return [child for child in psutil.Process(process.popen.pid).children() if "p2pd" in child.name()]


def peers_in(model: SwarmForCausalLM) -> set[str]:
    """Who is in the directory at this moment."""
    directory = model._connection._directory
    assert directory is not None
    view = bridge().run(directory.view(model._model.name))
    return {str(record.peer) for record in view.records}


def free_port() -> int:
    """A port that nobody uses now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def quick() -> Any:
    """Timeouts for a swarm that is about to change."""
    return Timeouts(coverage=40.0)


def test_a_server_and_a_client_need_nothing_but_an_address(reference: Reference, tmp_path: Path) -> None:
    with (
        local_swarm((), logs=tmp_path) as swarm,
        running("swarm.server", "--blocks", "auto", "--initial-peers", swarm.addr, log=tmp_path / "log") as server,
    ):
        server.wait_ready()
        *addrs, ready = server.lines
        match = READY.fullmatch(ready)
        assert match, server.lines
        assert (match[2], match[3]) == ("0:30", "smollm2-135m")
        assert all(re.fullmatch(r"addr=/\S+/p2p/" + match[1], line) for line in addrs)
        model = AutoModelForCausalLM.from_pretrained(initial_peers=[swarm.addr])
        ids = reference.ids("The capital of France is")
        text = reference.tokenizer.decode(model.generate(ids, max_new_tokens=4, do_sample=False)[0])
        assert text.startswith("The capital of France is Paris."), text
        assert model.route()[0].peer == match[1]


def test_a_number_of_blocks_picks_those_that_are_missing(
    tiny_folder: Path, tiny: SwarmForCausalLM, tmp_path: Path
) -> None:
    with local_swarm(("0:2", "4:6"), model=str(tiny_folder), server_flags=FP32, logs=tmp_path) as swarm:
        # Without a MODEL: this one's name is a folder that only its owner knows, so it is given.
        args = (str(tiny_folder), "--blocks", "2", "--initial-peers", swarm.addr, *EXACT)
        with running("swarm.server", *args, log=tmp_path / "log") as server:
            assert server.wait_ready()["blocks"] == "2:4"
            model = AutoModelForCausalLM.from_pretrained(tiny_folder, initial_peers=[swarm.addr])
            ids = some_ids(11)[None]
            assert torch.equal(
                model.generate(ids, max_new_tokens=8, do_sample=False),
                tiny.generate(ids, max_new_tokens=8, do_sample=False),
            )
            assert len(model.route()) == 3


def test_a_client_waits_for_the_server_that_is_still_missing(
    tiny_folder: Path, tiny: SwarmForCausalLM, quick: Timeouts, tmp_path: Path
) -> None:
    with local_swarm(("0:4",), model=str(tiny_folder), server_flags=FP32, logs=tmp_path) as swarm:
        model = AutoModelForCausalLM.from_pretrained(tiny_folder, initial_peers=[swarm.addr], timeouts=quick)
        ids, found = some_ids(11)[None], []
        thread = threading.Thread(target=lambda: found.append(model.generate(ids, max_new_tokens=4, do_sample=False)))
        thread.start()
        args = (str(tiny_folder), "--blocks", "4:6", "--initial-peers", swarm.addr, *EXACT)
        with running("swarm.server", *args, log=tmp_path / "log") as server:
            server.wait_ready()
            ready_at = time.monotonic()
            thread.join(30.0)
            assert found, "the client did not find the second server"
            assert time.monotonic() - ready_at < 10.0
    assert torch.equal(found[0], tiny.generate(ids, max_new_tokens=4, do_sample=False))


@pytest.mark.parametrize("number", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.long)])
def test_a_server_that_is_told_to_stop_lets_a_generation_finish_and_is_gone_at_once(
    number: signal.Signals, tiny_folder: Path, tiny: SwarmForCausalLM, tmp_path: Path
) -> None:
    with local_swarm(("0:6",), model=str(tiny_folder), server_flags=FP32, logs=tmp_path) as swarm:
        model = AutoModelForCausalLM.from_pretrained(
            tiny_folder, initial_peers=[swarm.addr], timeouts=Timeouts(coverage=0.5)
        )
        server, daemons = swarm.servers[0], daemons_of(swarm.servers[0])
        assert len(daemons) == 1
        ids = some_ids(8)[None]
        expected = tiny.generate(ids, max_new_tokens=100, do_sample=False, eos_token_id=[])
        with model.inference_session():
            model.generate(ids, max_new_tokens=1, do_sample=False, eos_token_id=[])
            server.popen.send_signal(number)
            time.sleep(0.5)
            # The session was open before the signal: it is served to its end.
            ours = model.generate(ids, max_new_tokens=100, do_sample=False, eos_token_id=[])
        assert torch.equal(ours, expected)
        with pytest.raises(BlocksMissing):  # nobody new is taken
            model.generate(ids, max_new_tokens=1, do_sample=False)
        assert server.popen.wait(20.0) == 0
        assert peers_in(model) == set()
        _, alive = psutil.wait_procs(daemons, 2.0)
        assert not alive


def test_a_server_started_before_any_bootstrap_waits_and_joins_when_one_comes(
    tiny_folder: Path, tmp_path: Path
) -> None:
    port, key = free_port(), tmp_path / "key"
    bootstrap = ("swarm.bootstrap", "--host-maddrs", f"/ip4/127.0.0.1/tcp/{port}", "--identity-path", str(key))
    with running(*bootstrap, log=tmp_path / "first") as first:
        addr = first.wait_ready()["addr"]
    args = (str(tiny_folder), "--blocks", "0:6", "--initial-peers", addr, *EXACT)
    with running("swarm.server", *args, log=tmp_path / "server") as server:
        with pytest.raises(UnavailableError, match="was not ready"):
            server.wait_ready(timeout=9.0)
        assert server.popen.poll() is None
        with running(*bootstrap, log=tmp_path / "second") as second:
            assert second.wait_ready()["addr"] == addr
            assert server.wait_ready(timeout=40.0)["blocks"] == "0:6"
            model = AutoModelForCausalLM.from_pretrained(tiny_folder, initial_peers=[addr])
            assert model.generate(some_ids(4)[None], max_new_tokens=2, do_sample=False, eos_token_id=[]).shape == (1, 6)
            assert server.popen.poll() is None


def test_a_second_process_with_the_same_identity_says_so_and_ends(tiny_folder: Path, tmp_path: Path) -> None:
    key = str(tmp_path / "key")
    flags = ("--threads", "1", "--identity-path", key)
    with local_swarm(("0:6",), model=str(tiny_folder), server_flags=flags, logs=tmp_path) as swarm:
        args = (str(tiny_folder), "--blocks", "0:6", "--initial-peers", swarm.addr, "--identity-path", key, *EXACT)
        with running("swarm.server", *args, log=tmp_path / "second") as second:
            assert second.popen.wait(30.0) == 1
        told = (tmp_path / "second").read_text().splitlines()
        assert len(told) == 1 and key in told[0] and "another" in told[0], told
        assert swarm.servers[0].popen.poll() is None


def test_all_servers_of_a_swarm_leave_no_daemon(tiny_folder: Path, tmp_path: Path) -> None:
    with local_swarm(("0:3", "3:6"), model=str(tiny_folder), server_flags=FP32, logs=tmp_path) as swarm:
        daemons = [daemon for process in (swarm.bootstrap, *swarm.servers) for daemon in daemons_of(process)]
        assert len(daemons) == 3
    _, alive = psutil.wait_procs(daemons, 2.0)
    assert not alive
    assert [process.popen.returncode for process in (swarm.bootstrap, *swarm.servers)] == [0, 0, 0]


def test_a_killed_server_leaves_no_daemon_for_long(tiny_folder: Path, tmp_path: Path) -> None:
    with local_swarm(("0:6",), model=str(tiny_folder), server_flags=FP32, logs=tmp_path) as swarm:
        daemons = daemons_of(swarm.servers[0])
        swarm.servers[0].popen.kill()
        _, alive = psutil.wait_procs(daemons, 15.0)
        assert not alive


def test_two_checkpoints_under_one_name_are_never_mixed(
    tiny_folder: Path, tiny: SwarmForCausalLM, tmp_path: Path
) -> None:
    other = tmp_path / "tiny"
    make_llama(other, seed=2, num_blocks=6)
    with local_swarm(("0:4",), model=str(tiny_folder), server_flags=FP32, logs=tmp_path) as swarm:
        args = (str(other), "--blocks", "2:6", "--initial-peers", swarm.addr, *EXACT)
        with running("swarm.server", *args, log=tmp_path / "log") as stranger:
            peer = stranger.wait_ready()["peer"]
            model = AutoModelForCausalLM.from_pretrained(
                tiny_folder, initial_peers=[swarm.addr], timeouts=Timeouts(coverage=1.5)
            )
            with pytest.raises(BlocksMissing, match=r"4:6 of tiny .*another checkpoint") as told:
                model.generate(some_ids(4)[None], max_new_tokens=2)
            assert peer in str(told.value) and "\n" not in str(told.value)
            # The other half of the right checkpoint comes: the stranger is left aside.
            args = (str(tiny_folder), "--blocks", "4:6", "--initial-peers", swarm.addr, *EXACT)
            with running("swarm.server", *args, log=tmp_path / "log2") as server:
                server.wait_ready()
                ids = some_ids(9)[None]
                ours = model.generate(ids, max_new_tokens=6, do_sample=False)
                assert peer not in {hop.peer for hop in model.route()}
                assert torch.equal(ours, tiny.generate(ids, max_new_tokens=6, do_sample=False))


def test_one_block_that_differs_is_noticed_where_spans_overlap(
    tiny_folder: Path, tiny: SwarmForCausalLM, tmp_path: Path
) -> None:
    """Same configuration, same embeddings, same fingerprint: a fine-tuned block, say."""
    other = tmp_path / "tiny"
    changed = make_llama(other, seed=1, num_blocks=6)
    with torch.no_grad():
        changed.model.layers[3].mlp.down_proj.weight[0, 0] += 1.0
    changed.save_pretrained(other)
    with local_swarm(("0:4", "2:6"), model=str(tiny_folder), server_flags=FP32, logs=tmp_path) as swarm:
        args = (str(other), "--blocks", "0:6", "--initial-peers", swarm.addr, *EXACT)
        with running("swarm.server", *args, log=tmp_path / "log") as stranger:
            peer = stranger.wait_ready()["peer"]
            model = AutoModelForCausalLM.from_pretrained(tiny_folder, initial_peers=[swarm.addr])
            assert model._model.fingerprint == tiny._model.fingerprint
            assert peer in peers_in(model)
            ids = some_ids(9)[None]
            ours = model.generate(ids, max_new_tokens=6, do_sample=False)
            # One server alone would be the fastest route, but two others say that its block 3 is another.
            assert peer not in {hop.peer for hop in model.route()}
            assert torch.equal(ours, tiny.generate(ids, max_new_tokens=6, do_sample=False))


def test_a_swarm_of_its_own_needs_no_bootstrap(tiny_folder: Path, tmp_path: Path) -> None:
    args = (str(tiny_folder), "--blocks", "0:6", "--new-swarm", *EXACT)
    with running("swarm.server", *args, log=tmp_path / "log") as server:
        addr = server.wait_ready(timeout=30.0)["addr"]
        model = AutoModelForCausalLM.from_pretrained(tiny_folder, initial_peers=[addr])
        assert model.generate(some_ids(4)[None], max_new_tokens=2, do_sample=False, eos_token_id=[]).shape == (1, 6)


def test_local_swarm_is_what_it_says(tiny_swarm: LocalSwarm) -> None:
    assert [ready["blocks"] for ready in tiny_swarm.ready] == ["0:4", "4:6"]


@pytest.mark.long  # every run has tests/chaos/test_membership.py
def test_the_blocks_of_the_only_server_that_dies_are_named_in_time_and_its_heir_is_found(
    tiny_folder: Path, tiny: SwarmForCausalLM, tmp_path: Path
) -> None:
    with local_swarm(("0:2", "2:4", "4:6"), model=str(tiny_folder), server_flags=FP32, logs=tmp_path) as swarm:
        model = AutoModelForCausalLM.from_pretrained(
            tiny_folder, initial_peers=[swarm.addr], timeouts=Timeouts(coverage=1.0)
        )
        ids = some_ids(8)[None]
        with model.inference_session():
            model.generate(ids, max_new_tokens=4, do_sample=False, eos_token_id=[])
            swarm.servers[1].popen.kill()
            started = time.monotonic()
            with pytest.raises(BlocksMissing, match="2:4 of tiny") as told:
                model.generate(ids, max_new_tokens=240, do_sample=False, eos_token_id=[])
            assert time.monotonic() - started < 10.0 and "\n" not in str(told.value)
        # Its record still lives for a while, but it is not there.
        with pytest.raises(BlocksMissing, match="2:4 of tiny"):
            model.generate(ids, max_new_tokens=4)
        # Whoever takes its place is found, by the same model object.
        args = (str(tiny_folder), "--blocks", "2:4", "--initial-peers", swarm.addr, *EXACT)
        with running("swarm.server", *args, log=tmp_path / "log") as server:
            server.wait_ready()
            ours = model.generate(ids, max_new_tokens=6, do_sample=False, eos_token_id=[])
            assert torch.equal(ours, tiny.generate(ids, max_new_tokens=6, do_sample=False, eos_token_id=[]))
