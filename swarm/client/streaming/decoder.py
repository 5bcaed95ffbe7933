"""The decoder: one compute thread for all streams of a model.

It takes the results that have arrived together, applies the head to all of them at once, chooses, sends the next
steps by itself, and then hands the tokens out. Between such batches it sends prompts, a chunk at a time, so that a
long one holds nobody up.
"""

from __future__ import annotations

import asyncio
import atexit
import queue
import threading
import weakref
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor

from swarm.blocks import ModelEnds
from swarm.client.batching import MAX_ROWS, BatchedHead
from swarm.client.steps import MAX_AHEAD
from swarm.client.streaming.choosing import choose
from swarm.client.streaming.generation import Arrival, Attempt
from swarm.client.streaming.likelihood import likelihoods
from swarm.client.streaming.mailbox import Letter, deliver
from swarm.errors import SwarmError
from swarm.log import get_logger
from swarm.network import Channel
from swarm.wire import Message
from swarm.wire.codecs import RAW_DTYPES, decode_tensor, encode_tensor

logger = get_logger(__name__)

Frame = tuple[Message, memoryview]

JOIN_TIMEOUT = 5.0
"""Seconds for a batch under way when the process ends."""

_living: weakref.WeakSet[Decoder] = weakref.WeakSet()


class Decoder:
    """Turns results into tokens and next steps; starts its thread with the first stream.

    Attributes:
        num_batches: Times that results were taken.
        num_tokens: Tokens chosen.
    """

    def __init__(self, ends: ModelEnds, head: BatchedHead, *, chunk_tokens: int) -> None:
        self._ends = ends
        self._head = head
        self._chunk_tokens = chunk_tokens
        self._inbox: queue.SimpleQueue[list[Arrival] | Attempt | Callable[[], object] | None] = queue.SimpleQueue()
        self._gathered: list[Arrival] = []  # the loop's: what came since it last looked
        self._arrived: deque[Arrival] = deque()
        self._beginning: deque[Attempt] = deque()
        self._ending: list[tuple[Attempt, Exception | None]] = []
        self._thread: threading.Thread | None = None
        self._lock = threading.Lock()
        self.num_batches = 0
        self.num_tokens = 0

    def begin(self, attempt: Attempt) -> None:
        """Send what the hops do not hold of an attempt's text, and go on from there; any thread may call."""
        with self._lock:
            if self._thread is None or not self._thread.is_alive():
                self._thread = threading.Thread(target=self._run, name="decoder", daemon=True)
                self._thread.start()
                _living.add(self)
        self._inbox.put(attempt)

    def arrived(self, arrival: Arrival) -> None:
        """Take a result, on the bridge's loop: those that came in one piece are taken together."""
        if not self._gathered:
            asyncio.get_running_loop().call_soon(self._pass_on)
        self._gathered.append(arrival)

    async def let_go(self, attempt: Attempt) -> None:
        """Wait until nothing more is made or sent of an attempt that has ended."""
        loop = asyncio.get_running_loop()
        gone: asyncio.Future[None] = loop.create_future()
        attempt.is_ended = True
        self._inbox.put(lambda: loop.call_soon_threadsafe(gone.set_result, None))
        await gone

    def stop(self) -> None:
        """End the thread, soon; what it still holds is dropped."""
        self._inbox.put(None)

    def join(self, timeout: float) -> None:
        """Wait until the thread has ended, for so many seconds at most."""
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join(timeout)

    def _pass_on(self) -> None:
        gathered, self._gathered = self._gathered, []
        self._inbox.put(gathered)

    def _run(self) -> None:
        with torch.inference_mode():
            while self._collect():
                if self._arrived:
                    self._decode(self._take())
                if self._beginning:
                    self._prefill(self._beginning.popleft())

    def _collect(self) -> bool:
        """Take all that waits, and wait if there is nothing to do; False at the end."""
        is_idle = not self._arrived and not self._beginning
        while True:
            try:
                item = self._inbox.get(block=is_idle)
            except queue.Empty:
                return True
            if item is None:
                return False
            if isinstance(item, Attempt):
                self._beginning.append(item)
            elif callable(item):
                item()
            else:
                self._arrived.extend(item)
            is_idle = False

    def _take(self) -> list[Arrival]:
        count = min(len(self._arrived), MAX_ROWS)
        taken = [self._arrived.popleft() for _ in range(count)]
        return [arrival for arrival in taken if not arrival.attempt.is_ended]

    def _prefill(self, attempt: Attempt) -> None:
        """Send the next chunk of a text; the last one's result comes back as all others do."""
        if attempt.is_ended or not attempt.num_unsent:
            return
        if attempt.generation.is_over:  # while this attempt was made, the one before has finished the text
            attempt.end(None)
            return
        try:
            self._send([attempt])
        except Exception as error:  # whatever is wrong with one stream, the others go on
            self._ending.append((attempt, _told(error)))
        self._end_all()
        if attempt.num_unsent and not attempt.is_ended:
            attempt.is_paused = True  # before the look: results may come in now
            if attempt.session.steps.num_under_way < MAX_AHEAD:
                attempt.is_paused = False
                self._beginning.append(attempt)

    def _decode(self, arrivals: list[Arrival]) -> None:
        """Take a token from each result, and send it on its way."""
        if not arrivals:
            return
        attempts, letters = [arrival.attempt for arrival in arrivals], list[Letter]()
        try:
            hidden, attempts = self._hidden(arrivals)
            going_on = self._choose(attempts, self._head(hidden), letters) if attempts else []
            deliver(letters)  # before what follows can fail: a token that was chosen is given
            if going_on:
                self._send(going_on)
        except Exception as error:  # a fault of ours: it ends these streams and nothing else
            self._ending += [(attempt, _told(error)) for attempt in attempts]
        self._end_all()  # not before: the last token comes first

    def _end_all(self) -> None:
        for attempt, error in self._ending:
            attempt.end(error)
        self._ending.clear()

    def _hidden(self, arrivals: list[Arrival]) -> tuple[Tensor, list[Attempt]]:
        """Return the last tokens' outputs (B, D), and whose they are; those of wrong shape or numbers are told."""
        parts: list[Tensor] = []
        attempts: list[Attempt] = []
        for attempt, waiting, result, body in arrivals:
            steps = attempt.session.steps
            try:
                steps.check_shape(result, waiting, len(body))
                parts.append(decode_tensor(body, result.codec, tokens=1, hidden_size=self._ends.config.hidden_size))
                attempts.append(attempt)
            except SwarmError as error:
                self._ending.append((attempt, error))
        hidden = torch.cat(parts) if parts else torch.empty(0)
        if bool(torch.isfinite(hidden).all()):
            return hidden, attempts
        sound = torch.isfinite(hidden).all(-1).tolist()
        for attempt, part, is_sound in zip(attempts, parts, sound, strict=True):
            if not is_sound:
                try:
                    attempt.session.steps.check_finite(part)
                except SwarmError as error:
                    self._ending.append((attempt, error))
        return hidden[sound], [attempt for attempt, is_sound in zip(attempts, sound, strict=True) if is_sound]

    def _choose(self, attempts: Sequence[Attempt], logits: Tensor, letters: list[Letter]) -> list[Attempt]:
        """Add a token to each text, and a letter for its reader; return those that go on."""
        going_on = []
        texts = [attempt.generation.text for attempt in attempts]
        tokens = choose(texts, logits)
        likely = likelihoods(logits, tokens, [text.choice.num_top for text in texts])
        for row, (attempt, token) in enumerate(zip(attempts, tokens, strict=True)):
            generation = attempt.generation
            error = token if isinstance(token, Exception) else generation.add(token)
            if error is not None:
                self._ending.append((attempt, error))
                continue
            letters.append(Letter(generation.mailbox, generation.tokens[-1], generation.is_over, likely.get(row)))
            if generation.is_over:
                self._ending.append((attempt, None))
            else:
                going_on.append(attempt)
        self.num_batches += 1
        self.num_tokens += len(letters)
        return going_on

    def _send(self, attempts: Sequence[Attempt]) -> None:
        """Send the next tokens of each attempt to its first hop, those of one channel in one piece."""
        steps = [attempt.next_step(self._chunk_tokens) for attempt in attempts]
        starts = [attempt.position - len(tokens) for attempt, (_, _, tokens) in zip(attempts, steps, strict=True)]
        ids = torch.tensor([token for _, _, tokens in steps for token in tokens])
        positions = torch.tensor(
            [start + index for start, (_, _, tokens) in zip(starts, steps, strict=True) for index in range(len(tokens))]
        )
        hidden = self._ends.place(self._ends.embed(ids), positions)  # (T, D)
        by_channel: dict[Channel, list[tuple[Attempt, Frame]]] = {}
        bodies = _encode(hidden, [len(tokens) for _, _, tokens in steps], [a.session.steps.codec for a in attempts])
        for attempt, (message, waiting, _), body in zip(attempts, steps, bodies, strict=True):
            waiting.body = body
            by_channel.setdefault(attempt.session.first_channel, []).append((attempt, (message, body)))
        for channel, sent in by_channel.items():
            _send_all(channel, sent)
        for attempt in attempts:
            if (broken := attempt.session.broken) is not None:  # before its step was made: nobody else would tell
                self._ending.append((attempt, broken))


@atexit.register
def _end_threads() -> None:
    """A thread that the ending interpreter stops in the middle of a tensor operation takes the process down with it."""
    decoders = tuple(_living)
    for decoder in decoders:
        decoder.stop()
    for decoder in decoders:
        decoder.join(JOIN_TIMEOUT)


def _send_all(channel: Channel, sent: Sequence[tuple[Attempt, Frame]]) -> None:
    """Send at once what may be, and leave the rest to the loop."""
    now = [frame for attempt, frame in sent if not attempt.sends_on_loop]
    is_sent = bool(now) and channel.try_send_now(now)
    for attempt, frame in sent:
        if attempt.sends_on_loop or not is_sent:
            attempt.sends_on_loop = True  # what follows must not overtake this
            attempt.loop.call_soon_threadsafe(partial(_send_later, channel, attempt, frame))


def _send_later(channel: Channel, attempt: Attempt, frame: Frame) -> None:
    try:
        channel.send(*frame)
    except SwarmError as error:
        attempt.failed(error)


def _encode(hidden: Tensor, lengths: Sequence[int], codecs: Sequence[str]) -> list[memoryview]:
    """Return each attempt's tokens as bytes; where all travel raw, they are made once and cut."""
    if len(set(codecs)) > 1 or codecs[0] not in RAW_DTYPES:
        parts = torch.split(hidden, list(lengths))
        return [encode_tensor(part, codec) for part, codec in zip(parts, codecs, strict=True)]
    whole = encode_tensor(hidden, codecs[0])
    width = len(whole) // len(hidden)
    bodies, done = [], 0
    for length in lengths:
        bodies.append(whole[done * width : (done + length) * width])
        done += length
    return bodies


def _told(error: Exception) -> Exception:
    if not isinstance(error, SwarmError):
        logger.error("streams ended by a fault of ours", exc_info=error)
    return error
