"""A model as its servers' records tell of it: whether they hold one checkpoint, ours, and all of its blocks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from swarm.doctor.findings import Code, Finding, fault, ok, warning
from swarm.doctor.probes.machine import Own
from swarm.planning import agree
from swarm.planning.coverage import format_spans, is_routable, missing_spans, runs
from swarm.types import PeerId, ServerRecord, ServerState, Span, View

CHECK = "models"

MAX_NAMED = 4
"""Servers whose difference is told in full; of the rest, how many they are."""


@dataclass(frozen=True, slots=True)
class _Sorted:
    """A view, split: who holds the checkpoint that counts, and how each of the others differs."""

    kept: View
    others: tuple[tuple[ServerRecord, str], ...]


def judge_model(view: View, own: Own | None) -> list[Finding]:
    """Judge one model.

    Args:
        view: All records of its name; at least one.
        own: Our own files of it, if we have them.
    """
    served = {record.fingerprint for record in view.records}
    findings = []
    if own is not None and own.fingerprint not in served:
        findings.append(_foreign(view, own))
        own = None
    found = _sort(view, own)
    num_blocks = (found.kept.records or view.records)[0].num_blocks
    missing = missing_spans(found.kept, Span(0, num_blocks))
    if found.others:
        findings.append(_disagreement(view.model, found, missing, is_ours=own is not None))
    findings += _coverage(view, num_blocks, missing)
    if not findings:
        num_servers = len([record for record in view.records if is_routable(record)])
        same = f", as the {len(own.digests)} that were compared with the files here" if own and own.digests else ""
        text = f"{view.model}: {num_servers} server{'s' * (num_servers > 1)}, all {num_blocks} blocks served{same}"
        findings = [ok(CHECK, text)]
    return findings


def lost_without(view: View, peer: PeerId) -> tuple[Span, ...]:
    """Return the blocks that nobody but `peer` serves."""
    mine = [record for record in view.records if record.peer == peer]
    rest = replace(view, records=tuple(record for record in view.records if record.peer != peer))
    return tuple(span for record in mine for span in missing_spans(rest, record.span))


def _sort(view: View, own: Own | None) -> _Sorted:
    """Split by our own files as far as they were read, and by the majority where they say nothing."""
    digests = dict(own.digests) if own is not None else {}
    fingerprint = own.fingerprint if own is not None else None
    agreement = agree(replace(view, records=tuple(r for r in view.records if not _differing(r, digests))), fingerprint)
    kept = agreement.view.records
    wanted = fingerprint or next((record.fingerprint for record in kept), "")
    for record in kept:
        told = zip(range(record.span.start, record.span.end), record.digests, strict=True)
        digests.update({block: digest for block, digest in told if digest})
    others = [record for record in view.records if record not in kept]
    return _Sorted(agreement.view, tuple((record, _difference(record, wanted, digests)) for record in others))


def _differing(record: ServerRecord, digests: Mapping[int, str]) -> tuple[Span, ...]:
    told = zip(range(record.span.start, record.span.end), record.digests, strict=True)
    return runs([block for block, digest in told if digest and digests.get(block, digest) != digest])


def _difference(record: ServerRecord, fingerprint: str, digests: Mapping[int, str]) -> str:
    blocks = _differing(record, digests)
    if record.fingerprint != fingerprint:
        return f"has fingerprint {record.fingerprint[:12]}, not {fingerprint[:12]}"
    return f"holds other weights in blocks {format_spans(blocks)}"


def _disagreement(model: str, found: _Sorted, missing: Sequence[Span], *, is_ours: bool) -> Finding:
    told = [f"server {record.peer} ({record.span}) {how}" for record, how in found.others[:MAX_NAMED]]
    more = len(found.others) - len(told)
    told += [f"and {more} more"] if more > 0 else []
    standard = "the files here" if is_ours else f"most of its {len(found.kept.records) + len(found.others)} servers"
    lost = f"; without them nobody serves blocks {format_spans(missing)}" if missing else ""
    return fault(
        CHECK,
        Code.FINGERPRINT_MISMATCH,
        f"{model}: {'; '.join(told)}, unlike {standard}{lost}",
        "their owners take the files that the others have (same repository, same revision), or serve theirs under "
        "another name; clients leave them out",
        model,
        *(record.peer for record, _ in found.others),
    )


def _foreign(view: View, own: Own) -> Finding:
    theirs = sorted({record.fingerprint[:12] for record in view.records})
    return fault(
        CHECK,
        Code.FINGERPRINT_MISMATCH,
        f"{view.model}: the files here have fingerprint {own.fingerprint[:12]}, those of its {len(view.records)} "
        f"server(s) {', '.join(theirs[:MAX_NAMED])}",
        "take the files that the servers have (same repository, same revision), or give yours another name",
        view.model,
    )


def _coverage(view: View, num_blocks: int, missing: Sequence[Span]) -> list[Finding]:
    """What of the missing blocks nothing else explains: servers that differ, or that cannot be dialled, are told."""
    claims = [record for record in view.records if record.num_blocks == num_blocks]
    standing = {record.span for record in claims if record.state is ServerState.ONLINE}
    coming = {record.span for record in claims if record.state is ServerState.JOINING}
    uncovered = _without(missing, standing)
    never = _without(uncovered, coming)
    num_servers = len(view.records)
    if never:
        text = f"{view.model}: blocks {format_spans(never)} are served by nobody; it has {num_servers} server(s)"
        remedy = f"start a server for them: python -m swarm.server {view.model} --blocks {never[0]}"
        return [fault(CHECK, Code.BLOCKS_UNCOVERED, text, remedy, view.model, *map(str, never))]
    if uncovered:
        text = f"{view.model}: blocks {format_spans(uncovered)} are served by nobody yet; servers load them"
        return [warning(CHECK, Code.BLOCKS_UNCOVERED, text, "wait until they are loaded", view.model)]
    return []


def _without(spans: Sequence[Span], taken: set[Span]) -> tuple[Span, ...]:
    return runs([b for span in spans for b in range(span.start, span.end) if not any(b in each for each in taken)])
