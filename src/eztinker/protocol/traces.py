"""A session's requests as a Perfetto trace: one track per training run and sampler, one slice per request."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta

from eztinker.protocol.trace_pb2 import DebugAnnotation, Trace, TrackEvent
from eztinker.types import Record

SEQUENCE = 1
"""Sequence id of the only writer of packets."""


class Slice(Record):
    """One request on a track, with its start and end."""

    track: str
    name: str
    start: datetime
    end: datetime | None
    """End of the request; None if it has not ended."""
    details: dict[str, str | int]


def encode_trace(title: str, slices: Iterable[Slice]) -> bytes:
    """Serialize slices as a .pftrace file.

    Slices on one Perfetto track must not overlap, but requests do. Each track here therefore becomes as many Perfetto
    tracks of one name as it has concurrent requests; the viewer shows them together.
    """
    trace = Trace()
    root = _add_track(trace, title, parent=0)
    rows: dict[str, list[_Row]] = {}
    for item in sorted(slices, key=lambda item: item.start):
        of_track = rows.setdefault(item.track, [])
        row = next((row for row in of_track if row.free_from is not None and row.free_from <= item.start), None)
        if row is None:
            row = _Row(_add_track(trace, item.track, parent=root))
            of_track.append(row)
        _add_slice(trace, row.uuid, item)
        row.free_from = item.end
    return trace.SerializeToString()


class _Row:
    """One Perfetto track, and when its last slice ended."""

    def __init__(self, uuid: int) -> None:
        self.uuid = uuid
        self.free_from: datetime | None = None


def _add_track(trace: Trace, name: str, *, parent: int) -> int:
    uuid = len(trace.packet) + 1
    packet = trace.packet.add(trusted_packet_sequence_id=SEQUENCE)
    packet.track_descriptor.uuid = uuid
    packet.track_descriptor.name = name
    if parent:
        packet.track_descriptor.parent_uuid = parent
    return uuid


def _add_slice(trace: Trace, track: int, item: Slice) -> None:
    details = [
        DebugAnnotation(name=name, int_value=value)
        if isinstance(value, int)
        else DebugAnnotation(name=name, string_value=value)
        for name, value in item.details.items()
    ]
    begin = TrackEvent(type=TrackEvent.TYPE_SLICE_BEGIN, track_uuid=track, name=item.name, debug_annotations=details)
    trace.packet.add(timestamp=_ns(item.start), trusted_packet_sequence_id=SEQUENCE, track_event=begin)
    if item.end is not None:
        end = TrackEvent(type=TrackEvent.TYPE_SLICE_END, track_uuid=track)
        trace.packet.add(timestamp=_ns(item.end), trusted_packet_sequence_id=SEQUENCE, track_event=end)


def _ns(moment: datetime) -> int:
    return (moment - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1) * 1000
