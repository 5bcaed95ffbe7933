"""A conversation from its first line to its last."""

from __future__ import annotations

import asyncio
import logging
import signal
import sys
import threading
from collections import deque
from dataclasses import replace
from types import FrameType
from typing import Any

from swarm.blocks.files.bundled import default_cache
from swarm.chat.answering import Answer
from swarm.chat.commands import Command, help_text, read_command, read_setting
from swarm.chat.config import LOWEST, ChatConfig
from swarm.chat.conversation import Conversation
from swarm.chat.line_editor import LineEditor
from swarm.chat.progress import counted, summary_text, times_text
from swarm.chat.screen import PlainScreen, Screen, TerminalScreen
from swarm.client import AutoModelForCausalLM, AutoTokenizer, Explanation, SwarmForCausalLM
from swarm.errors import SwarmError
from swarm.membership import Joined

LOG_LINES = 200
"""Lines of the log that are kept for `/log`."""


def talk(config: ChatConfig, joined: Joined, *, is_terminal: bool) -> None:
    """Talk until the input ends or somebody says so.

    Raises:
        SwarmError: The swarm cannot be joined, or the model cannot be used.
    """
    screen: Screen = TerminalScreen(sys.stdout, sys.stdin.fileno()) if is_terminal else PlainScreen(sys.stdout)
    log = _keep_log() if is_terminal and not config.debug else deque[str]()
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, _leave)
        # A shell that starts us in the background has SIGINT ignored, and whoever types Ctrl-C means it.
        signal.signal(signal.SIGINT, signal.default_int_handler)
    screen.note("joining the swarm ...")
    model = AutoModelForCausalLM.from_pretrained(config.model, initial_peers=joined.peers, swarm_key=joined.key)
    tokenizer = AutoTokenizer.from_pretrained(config.model or model.name_or_path)
    with asyncio.Runner() as runner:
        editor = LineEditor(
            is_terminal=is_terminal, history=default_cache() / "chat_history" if config.history else None
        )
        try:
            Talk(config, model, tokenizer, screen, log).run(runner, editor)
        finally:
            editor.close()


class Talk:
    """A conversation, and the commands about it."""

    def __init__(
        self, config: ChatConfig, model: SwarmForCausalLM, tokenizer: Any, screen: Screen, log: deque[str]
    ) -> None:
        self._config = config
        self._model = model
        self._tokenizer = tokenizer
        self._screen = screen
        self._log = log
        self._context = model.context_length
        self._conversation = Conversation(tokenizer, self._context, config.system)
        self._num_answers = self._num_tokens = self._num_failovers = 0
        self._last: Explanation | None = None

    def run(self, runner: asyncio.Runner, editor: LineEditor) -> None:
        """Read lines and answer them until there are no more."""
        self._screen.note(self._greeting())
        while True:
            try:
                line = editor.read()
            except EOFError:
                self._screen.note("")
                return
            except KeyboardInterrupt:
                self._screen.note("\n(Ctrl-D or /quit leaves)")
                continue
            try:
                command = read_command(line)
                if command is not None and command.name == "/quit":
                    return
                if command is None or command.name == "/retry":
                    self._ask(runner, line, command)
                else:
                    self._screen.tell(self._obey(command))
            except SwarmError as error:
                self._screen.complain(" ".join(str(error).split()))

    def _ask(self, runner: asyncio.Runner, line: str, command: Command | None) -> None:
        if command is not None:
            if not self._conversation.reopen():
                self._screen.complain("there is no question yet")
                return
        elif line:
            self._conversation.ask(line.removeprefix("/") if line.startswith("//") else line)
        else:
            return
        prompt, room = self._conversation.prompt(self._config.max_tokens)
        if self._conversation.num_forgotten:
            left_out = counted(self._conversation.num_forgotten, "message")
            self._screen.note(f"(the context is full: the oldest {left_out} are left out)")
        answer = Answer(self._model, self._tokenizer, self._screen)
        ending = ""
        try:
            with self._screen.answering():
                try:
                    runner.run(answer.run(prompt, self._options(room)))
                except KeyboardInterrupt:
                    ending = "stopped"
            ending = ending or ("cut at max_tokens" if answer.progress.num_tokens >= room else "")
        finally:
            self._note(answer)
        self._screen.note(summary_text(answer.progress, answer.names, ending))

    def _note(self, answer: Answer) -> None:
        """Keep what came, however it ended: a question without any answer stays open for /retry."""
        if answer.text.strip():
            self._conversation.answer(answer.text)
        self._num_answers += 1
        self._num_tokens += answer.progress.num_tokens
        self._num_failovers += answer.progress.num_failovers
        self._last = answer.explanation

    def _options(self, room: int) -> dict[str, Any]:
        """Options of `stream`; what is not set is the model's own."""
        config = self._config
        names = ("top_p", "top_k", "repetition_penalty", "seed")
        options = {name: value for name in names if (value := getattr(config, name)) is not None}
        if config.temperature is not None:
            options |= {"temperature": config.temperature} if config.temperature else {}
            options["do_sample"] = config.temperature > 0
        elif options.keys() & {"top_p", "top_k"}:
            options["do_sample"] = True
        return {"max_new_tokens": room, **options}

    def _obey(self, command: Command) -> str:
        match command.name:
            case "/route":
                return self._route()
            case "/stats":
                return self._stats()
            case "/reset":
                self._conversation.reset()
                return "a new conversation"
            case "/system":
                return self._system(command.rest)
            case "/set":
                return self._set(command.rest)
            case "/log":
                return "\n".join(self._log) or "nothing was noted"
            case _:
                return help_text()

    def _route(self) -> str:
        if self._last is not None and self._last.hops:
            return str(self._last)
        return str(self._model.explain())

    def _stats(self) -> str:
        messages = len(self._conversation.messages)
        held = len(self._conversation.prompt(1)[0]) if messages else 0
        rows = (
            ("model", self._model.name_or_path),
            ("messages", str(messages)),
            ("context", f"{held} of {self._context} tokens"),
            ("answers", f"{self._num_answers}, {counted(self._num_tokens, 'token')}"),
            ("fail-overs", times_text(self._num_failovers)),
        )
        return "\n".join(f"  {name:<11} {text}" for name, text in rows)

    def _system(self, text: str) -> str:
        if text:
            self._conversation.system = "" if text == "-" else text
        return f"system: {self._conversation.system or 'nothing'}"

    def _set(self, rest: str) -> str:
        if rest:
            name, value = read_setting(rest)
            setting: dict[str, Any] = {name: value}
            self._config = replace(self._config, **setting)
        values = {name: getattr(self._config, name) for name in LOWEST}
        return "\n".join(f"  {name:<19} {'auto' if value is None else value}" for name, value in values.items())

    def _greeting(self) -> str:
        servers = self._model.view().records
        blocks = self._model.blocks.span.end
        return (
            f"{self._model.name_or_path}: {blocks} blocks at {counted(len(servers), 'server')} · /help tells the rest"
        )


class _Kept(logging.Handler):
    """Keeps lines for `/log`: on the terminal they would stand among the words."""

    def __init__(self, lines: deque[str]) -> None:
        super().__init__()
        self._lines = lines

    def emit(self, record: logging.LogRecord) -> None:
        """Keep a line."""
        self._lines.append(self.format(record))


def _keep_log() -> deque[str]:
    lines = deque[str](maxlen=LOG_LINES)
    ours = logging.getLogger("swarm")
    kept = _Kept(lines)
    kept.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S"))
    ours.handlers = [kept]
    return lines


def _leave(number: int, frame: FrameType | None) -> None:
    raise SystemExit(128 + number)
