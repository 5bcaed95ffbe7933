"""How much each key may ask: requests and tokens by the minute, tokens by the day; pure but for its clock."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from swarm.clock import Clock
from swarm.gateway.faults import Refused

MINUTE, DAY = 60.0, 86400.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Allowance:
    """What one key may use; 0 is any number."""

    requests_per_minute: int = 0
    tokens_per_minute: int = 0
    tokens_per_day: int = 0


class Bucket:
    """Fills evenly, a minute's share in a minute, and holds no more than that; what is taken may be owed."""

    def __init__(self, per_minute: int, now: float) -> None:
        self._per_minute = per_minute
        self._level = float(per_minute)
        self._filled_at = now

    def wait(self, amount: float, now: float) -> float:
        """Return the seconds until so much may be taken; 0 if it may now. More than it holds is a full bucket."""
        self._fill(now)
        return max(0.0, min(amount, self._per_minute) - self._level) * MINUTE / self._per_minute

    def take(self, amount: float, now: float) -> None:
        """Take so much, whether it is there or not."""
        self._fill(now)
        self._level -= amount

    def _fill(self, now: float) -> None:
        self._level = min(self._per_minute, self._level + (now - self._filled_at) * self._per_minute / MINUTE)
        self._filled_at = now


class _Account:
    def __init__(self, allowance: Allowance, now: float) -> None:
        self.allowance = allowance
        self.requests = Bucket(allowance.requests_per_minute, now) if allowance.requests_per_minute else None
        self.tokens = Bucket(allowance.tokens_per_minute, now) if allowance.tokens_per_minute else None
        self.day = 0
        self.tokens_today = 0


class Limits:
    """One account for each key; who needs none has one together. What was used is forgotten with the process.

    Args:
        allowance: Of each key that has none of its own.
        clock: When it is.
        own: Allowances of keys that have one of their own, by the key's name.
    """

    def __init__(self, allowance: Allowance, clock: Clock, own: Mapping[str, Allowance] | None = None) -> None:
        self._allowance = allowance
        self._clock = clock
        self._own = own or {}
        self._accounts: dict[str, _Account] = {}

    def count_request(self, key: str) -> None:
        """Let a request in.

        Raises:
            Refused: The key has sent too many in the last minute.
        """
        account, now = self._account(key), self._clock.monotonic()
        if (requests := account.requests) is None:
            return
        if wait := requests.wait(1, now):
            most = account.allowance.requests_per_minute
            raise _too_much(f"this key may send {most} requests a minute", "rate_limit_exceeded", "requests", wait)
        requests.take(1, now)

    def admit_tokens(self, key: str, prompt_tokens: int) -> None:
        """Count a prompt's tokens; those of the answer follow by `count_tokens`.

        Raises:
            Refused: The key has used too many tokens in the last minute, or today.
        """
        account, now = self._account(key), self._clock.monotonic()
        allowance = account.allowance
        self._turn_day(account)
        if allowance.tokens_per_day and account.tokens_today + prompt_tokens > allowance.tokens_per_day:
            text = f"this key may use {allowance.tokens_per_day} tokens a day, has used {account.tokens_today} today"
            text += f", and the prompt has {prompt_tokens}"
            raise _too_much(text, "insufficient_quota", "tokens", DAY - self._clock.unix() % DAY)
        if account.tokens is not None and (wait := account.tokens.wait(prompt_tokens, now)):
            most = allowance.tokens_per_minute
            raise _too_much(f"this key may use {most} tokens a minute", "rate_limit_exceeded", "tokens", wait)
        self.count_tokens(key, prompt_tokens)

    def count_tokens(self, key: str, tokens: int) -> None:
        """Count tokens that were made: what is beyond the allowance, later requests wait for."""
        account = self._account(key)
        self._turn_day(account)
        account.tokens_today += tokens
        if account.tokens is not None:
            account.tokens.take(tokens, self._clock.monotonic())

    def give_back(self, key: str, prompt_tokens: int) -> None:
        """Take back what `admit_tokens` counted: nothing of the prompt was answered."""
        account = self._account(key)
        self._turn_day(account)
        account.tokens_today = max(0, account.tokens_today - prompt_tokens)  # midnight may have been between
        if account.tokens is not None:
            account.tokens.take(-prompt_tokens, self._clock.monotonic())

    def _account(self, key: str) -> _Account:
        if key not in self._accounts:
            self._accounts[key] = _Account(self._own.get(key, self._allowance), self._clock.monotonic())
        return self._accounts[key]

    def _turn_day(self, account: _Account) -> None:
        today = int(self._clock.unix() // DAY)
        if account.day != today:
            account.day, account.tokens_today = today, 0


def _too_much(text: str, fault: str, kind: str, wait: float) -> Refused:
    return Refused(f"{text}: try again in {wait:.0f} s", status=429, kind=kind, fault=fault, retry_after=wait)
