"""A plugin for two test runs that share the slow test files: each claims a file before it runs the slow tests of it.

A file is claimed whole, since the swarms that its fixtures start take seconds; and one run goes through the files from
the end, so that the two are in the same folder, whose swarm each starts for itself, only where they meet.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain, pairwise
from pathlib import Path
from urllib.parse import quote

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--claims", type=Path, metavar="FOLDER", help="where the runs claim slow test files")
    parser.addoption("--helps", action="store_true", help="first what is not slow, then slow files from the end")


@pytest.hookimpl(tryfirst=True)
def pytest_runtestloop(session: pytest.Session) -> bool | None:
    """Do as pytest does, but find out which test is next only when one begins."""
    if session.config.option.collectonly or session.testsfailed or not session.config.option.claims:
        return None
    for item, following in pairwise(chain(_ours(session), [None])):
        if item is not None:
            item.config.hook.pytest_runtest_protocol(item=item, nextitem=following)
        if session.shouldfail:
            raise session.Failed(session.shouldfail)
        if session.shouldstop:
            raise session.Interrupted(session.shouldstop)
    return True


def _ours(session: pytest.Session) -> Iterator[pytest.Item | None]:
    """What is not slow, then the slow tests of each file that nobody has claimed; the rest counts as deselected.

    None is between them: all fixtures end there, and no file is claimed before.
    """
    slow: dict[str, list[pytest.Item]] = {}
    for item in session.items:
        if item.get_closest_marker("slow"):
            slow.setdefault(item.nodeid.split("::")[0], []).append(item)
        else:
            yield item
    yield None
    for file in reversed(slow) if session.config.option.helps else slow:
        try:
            (session.config.option.claims / quote(file, safe="")).touch(exist_ok=False)
        except FileExistsError:
            session.testscollected -= len(slow[file])
            session.config.hook.pytest_deselected(items=slow[file])
        else:
            yield from slow[file]
