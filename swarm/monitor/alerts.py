"""Alerts: what is wrong with a model, or soon may be, in words; pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from statistics import median

from swarm.monitor.state import Alert, Level, Listed, ModelState, Standing
from swarm.planning.coverage import runs
from swarm.types import ServerState, Span

MAX_NAMED = 6
"""Stretches or servers that one sentence names; a large swarm has more than anybody reads."""

WEAK = 0.5
"""Blocks with less than this share of the median block's throughput are worth a word."""

_ORDER = (Level.BAD, Level.WARN, Level.NOTE)


def alerts_of(model: ModelState) -> tuple[Alert, ...]:
    """Return what is to be said about a model, the worst first; its own `alerts` are not looked at."""
    found = [
        *_gaps(model),
        *_single(model),
        *_others(model),
        *_unreachable(model),
        *_full(model),
        *_weak(model),
        *_coming_and_going(model),
        *_versions(model),
    ]
    return tuple(sorted(found, key=lambda alert: _ORDER.index(alert.level)))


def in_words(spans: Sequence[Span]) -> str:
    """Return blocks as a person says them, the last one included: "block 7", "blocks 0-3 and 12-15"."""
    parts = [str(span.start) if len(span) == 1 else f"{span.start}-{span.end - 1}" for span in spans[:MAX_NAMED]]
    if len(spans) > MAX_NAMED:
        parts.append(f"{len(spans) - MAX_NAMED} more stretches")
    is_one = len(spans) == 1 and len(spans[0]) == 1
    return f"{'block' if is_one else 'blocks'} {_and(parts)}"


def name_of(listed: Listed) -> str:
    """Return what a person calls a server: its public name, else the end of its peer id."""
    return listed.record.public_name or f"…{listed.record.peer[-8:]}"


def _gaps(model: ModelState) -> Iterable[Alert]:
    if not model.missing:
        return
    if model.num_covered == 0:
        text = f"none of the {model.num_blocks} blocks has a server"
    else:
        text = f"{in_words(model.missing)} {_have(model.missing)} no server"
    coming = [
        listed
        for listed in _with(model, Standing.JOINING)
        if any(_overlap(listed.record.span, span) for span in model.missing)
    ]
    if coming:
        text += f"; {_count(coming, 'server')} {'is' if len(coming) == 1 else 'are'} loading some of them"
    yield Alert(Level.BAD, "gap", text, model.missing)


def _single(model: ModelState) -> Iterable[Alert]:
    spans = _spans(model, lambda servers, _, __: servers == 1)
    if spans:
        yield Alert(Level.WARN, "single", f"{in_words(spans)} {_have(spans)} one server", spans)


def _others(model: ModelState) -> Iterable[Alert]:
    if others := _with(model, Standing.OTHER):
        verb = "holds" if len(others) == 1 else "hold"
        text = f"{_count(others, 'server')} {verb} another checkpoint, left out of routes: {_names(others)}"
        yield Alert(Level.WARN, "checkpoint", text)


def _unreachable(model: ModelState) -> Iterable[Alert]:
    if lost := _with(model, Standing.UNREACHABLE):
        text = f"{_count(lost, 'server')} cannot be reached by others, left out of routes: {_names(lost)}"
        yield Alert(Level.WARN, "unreachable", text)


def _full(model: ModelState) -> Iterable[Alert]:
    spans = _spans(model, lambda servers, _, pages: servers > 0 and pages == 0)
    if spans:
        yield Alert(Level.WARN, "full", f"{in_words(spans)} {_have(spans)} no free pages: new sessions wait", spans)


def _weak(model: ModelState) -> Iterable[Alert]:
    usual = median(rate for stretch in model.stretches for rate in [stretch.per_s] * len(stretch.span))
    spans = _spans(model, lambda servers, per_s, _: servers > 0 and per_s < WEAK * usual)
    if spans:
        least = min(stretch.per_s for stretch in model.stretches if stretch.servers)
        rates = f"{_rate(least)} of {_rate(usual)} tokens/s"
        text = f"{in_words(spans)} {_have(spans)} less than half of the usual throughput ({rates})"
        yield Alert(Level.NOTE, "weak", text, spans)


def _coming_and_going(model: ModelState) -> Iterable[Alert]:
    if joining := _with(model, Standing.JOINING):
        yield Alert(Level.NOTE, "joining", f"{_count(joining, 'server')} joining: {_names(joining)}")
    if leaving := _with(model, Standing.LEAVING):
        yield Alert(Level.NOTE, "leaving", f"{_count(leaving, 'server')} leaving: {_names(leaving)}")
    moving = [
        listed
        for listed in model.servers
        if listed.record.next_span is not None and listed.record.state is ServerState.ONLINE
    ]
    if moving:
        yield Alert(Level.NOTE, "moving", f"{_count(moving, 'server')} about to serve other blocks: {_names(moving)}")


def _versions(model: ModelState) -> Iterable[Alert]:
    versions = sorted({listed.record.version for listed in model.servers})
    if len(versions) > 1:
        shown = versions[:MAX_NAMED] + ([f"{len(versions) - MAX_NAMED} more"] if len(versions) > MAX_NAMED else [])
        yield Alert(Level.NOTE, "versions", f"servers run {len(versions)} versions: {_and(shown)}")


def _spans(model: ModelState, is_meant: Callable[[int, float, int], bool]) -> tuple[Span, ...]:
    meant = [each.span for each in model.stretches if is_meant(each.servers, each.per_s, each.pages)]
    return runs([block for span in meant for block in range(span.start, span.end)])


def _with(model: ModelState, standing: Standing) -> list[Listed]:
    return [listed for listed in model.servers if listed.standing is standing]


def _overlap(one: Span, other: Span) -> bool:
    return one.start < other.end and other.start < one.end


def _rate(per_s: float) -> str:
    return f"{per_s:,.0f}" if per_s >= 100 else f"{per_s:.3g}"


def _have(spans: Sequence[Span]) -> str:
    return "has" if len(spans) == 1 and len(spans[0]) == 1 else "have"


def _count(servers: Sequence[Listed], noun: str) -> str:
    return f"{len(servers)} {noun}{'' if len(servers) == 1 else 's'}"


def _names(servers: Sequence[Listed]) -> str:
    names = [name_of(listed) for listed in servers[:MAX_NAMED]]
    return _and(names + ([f"{len(servers) - MAX_NAMED} more"] if len(servers) > MAX_NAMED else []))


def _and(parts: Sequence[str]) -> str:
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"
