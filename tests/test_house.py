"""The house keeps itself: the checks of `tests.house` on the package, and on small trees that break each rule."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import swarm
from swarm.cli.main import COMMANDS, Command
from tests import house, house_plan

ROOT = Path(swarm.__file__).parent
CHECKS = (
    house.floors,
    house.doors,
    house.docstrings,
    house.sizes,
    house.names,
    house.safety,
    house.handlers,
    house.surroundings,
)


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_the_package_keeps_the_rules_of_the_house(check: Callable[[Path], list[house.Fault]]) -> None:
    faults = check(ROOT)
    assert not faults, "\n" + "\n".join(map(str, faults))


OFFENCES = [
    (house.floors, "wire/a.py", "import swarm.network", "imports up"),
    (house.floors, "wire/a.py", "def f():\n    from swarm.network import x", "imports up"),
    (house.floors, "wire/a.py", "if TYPE_CHECKING:\n    from swarm.blocks import x", "imports sideways"),
    (house.floors, "client/a.py", "from ..server import x", "imports sideways"),
    (house.floors, "server/a.py", "from importlib import import_module\nimport_module('swarm.client')", "sideways"),
    (house.floors, "planning/a.py", "import torch", "'torch' does not belong in room 'planning'"),
    (house.floors, "wire/messages.py", "import torch", "'torch' does not belong in room 'wire'"),
    (house.floors, "errors.py", "import msgpack", "'msgpack' does not belong"),
    (house.floors, "server/a.py", "from swarm import AutoTokenizer", "top name"),
    (house.floors, "server/a.py", "from .. import AutoTokenizer", "top name"),
    (house.floors, "network/a.py", "from swarm.cli import run", "imports up"),
    (house.floors, "network/a.py", "from swarm.wire.__main__ import main", "imports up"),
    (house.floors, "attic/a.py", "", "room 'attic' stands on no floor"),
    (house.floors, "server/a.py", "import swarm.attic", "swarm.attic, which stands on no floor"),
    (house.doors, "wire/a.py", "", "wire/__init__.py:1: the folder has no door"),
    (house.docstrings, "wire/a.py", "x = 1", "the module has no docstring"),
    (house.docstrings, "wire/a.py", '"""A."""\nclass A:\n    """A."""\n    def go(self): ...', "go has no docstring"),
    (house.docstrings, "wire/a.py", '"""A."""\nasync def go(): ...', "go has no docstring"),
    (house.sizes, "wire/a.py", "\n" * 301, "301 lines, over 300"),
    (house.sizes, "wire/a.py", "def go():\n" + "    x = 1\n" * 60, "go has 61 lines, over 60"),
    (house.names, "wire/utils.py", "", "'utils' says nothing"),
    (house.names, "helpers/a.py", "", "'helpers' says nothing"),
    (house.names, "wire/a.py", "# TODO" + ": later", "left in the tree"),
    (house.safety, "wire/a.py", "import pickle", "imports pickle"),
    (house.safety, "wire/a.py", "from torch import load", "imports torch.load"),
    (house.safety, "wire/a.py", "torch.load('x')", "calls torch.load"),
    (house.safety, "wire/a.py", "eval('x')", "calls eval"),
    (house.safety, "wire/a.py", "f(trust_remote_code=True)", "trust_remote_code is not False"),
    (house.handlers, "wire/a.py", "try:\n    x = 1\nexcept:\n    raise", "bare except"),
    (house.handlers, "wire/a.py", "try:\n    x = 1\nexcept Exception:\n    x = 2", "catches every exception"),
    (house.handlers, "wire/a.py", "try:\n    x = 1\nexcept (OSError, BaseException):\n    x = 2", "catches every"),
    (house.surroundings, "wire/a.py", "import os\nos.environ['X']", "reads os.environ"),
    (house.surroundings, "server/a.py", "import sys\nsys.argv", "reads sys.argv"),
]


@pytest.mark.parametrize(("check", "path", "text", "fault"), OFFENCES)
def test_each_rule_is_seen_broken(
    check: Callable[[Path], list[house.Fault]], path: str, text: str, fault: str, tmp_path: Path
) -> None:
    file = tmp_path / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)
    assert [found for found in check(tmp_path) if fault in str(found)], f"{check.__name__} saw nothing in {text!r}"


KEPT = {
    "errors.py": '"""Words."""\n',
    "flag.py": '"""Words."""\nfrom swarm.errors import UsageError\n',
    "wire/__init__.py": '"""Door."""\nfrom .frames import read_frame\n',
    "wire/frames.py": '"""Frames."""\nimport struct\nimport msgpack\nfrom swarm import errors\n',
    "wire/codecs.py": '"""Codecs."""\nimport torch\n',
    "server/__init__.py": '"""Door."""\n',
    "client/__init__.py": '"""Door."""\n',
    "cli/__init__.py": '"""Door."""\n',
    "server/engine.py": '"""Engine."""\nfrom swarm.wire.frames import x\nfrom swarm.network import P\nmodel.eval()\n',
    "server/__main__.py": '"""Serve."""\nimport sys\nfrom swarm.cli import run\nfrom swarm.server import E\nsys.argv\n',
    "demo.py": '"""Demo."""\nfrom swarm.client import x\nfrom swarm.server import y\nfrom swarm.cli import run\n',
    "client/a.py": '"""A."""\ntry:\n    x = 1\nexcept BaseException:\n    x = 2\n    raise\n',
    "client/b.py": '"""B."""\nclass A:\n    """A."""\n    def __len__(self): ...\n    def _go(self): ...\n',
    "cli/main.py": '"""M."""\n',
    "__init__.py": '"""Top."""\nfrom swarm.client import x\n',
}


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_a_tree_that_keeps_the_rules_has_no_faults(check: Callable[[Path], list[house.Fault]], tmp_path: Path) -> None:
    for path, text in KEPT.items():
        file = tmp_path / path
        file.parent.mkdir(exist_ok=True)
        file.write_text(text)
    assert check(tmp_path) == []


def test_the_lists_of_exceptions_name_files_that_exist() -> None:
    listed = {*house_plan.FILE_PACKAGES, *house_plan.BROAD_HANDLERS, *house_plan.ENVIRONMENT_READERS}
    assert [path for path in sorted(listed) if not (ROOT / path).is_file()] == []


PURE = ["swarm", "swarm.errors", "swarm.types", "swarm.clock", "swarm.log", "swarm.flag", "swarm.cli"]
PURE += ["swarm.planning", "swarm.wire", "swarm.wire.messages", "swarm.blocks"]


def test_pure_rooms_do_not_load_torch() -> None:
    code = (
        "import importlib, sys\n"
        f"for name in {PURE}:\n"
        "    importlib.import_module(name)\n"
        "    assert 'torch' not in sys.modules, name\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.name)
def test_help_of_a_command_does_not_load_torch(command: Command) -> None:
    code = (
        "import sys\n"
        "from importlib import import_module\n"
        "try:\n"
        f"    import_module('{command.target}').main(['--help'])\n"
        "except SystemExit as end:\n"
        "    assert end.code == 0\n"
        "assert 'torch' not in sys.modules\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert result.returncode == 0 and "usage:" in result.stdout, result.stderr
