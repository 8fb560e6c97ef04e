"""Traces as Perfetto's own schema reads them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from perfetto.protos.perfetto.trace import perfetto_trace_pb2 as perfetto

from eztinker.protocol.traces import Slice, encode_trace

START = datetime(2026, 1, 2, 3, 4, 5, 678, tzinfo=UTC)


def at(seconds: float) -> datetime:
    return START + timedelta(seconds=seconds)


def item(name: str, start: float, end: float | None, track: str = "run") -> Slice:
    details: dict[str, str | int] = {"status": "done", "seq_id": 10**18}
    return Slice(track=track, name=name, start=at(start), end=None if end is None else at(end), details=details)


def rows(trace: perfetto.Trace) -> list[tuple[str, list[str]]]:
    """Name and slices of each track, in the order of the file."""
    tracks = {p.track_descriptor.uuid: p.track_descriptor.name for p in trace.packet if p.HasField("track_descriptor")}
    begun = [p.track_event for p in trace.packet if p.track_event.type == perfetto.TrackEvent.TYPE_SLICE_BEGIN]
    return [(name, [event.name for event in begun if event.track_uuid == uuid]) for uuid, name in tracks.items()]


def test_slices_that_overlap_lie_on_rows_of_their_own():
    slices = [item("c", 2, 3), item("a", 0, 2), item("b", 1, 4), item("other", 1, 2, track="sampler"), item("d", 3, 5)]
    trace = perfetto.Trace.FromString(encode_trace("session x", slices))
    assert rows(trace) == [("session x", []), ("run", ["a", "c", "d"]), ("run", ["b"]), ("sampler", ["other"])]


def test_what_has_not_ended_keeps_its_row_and_has_no_end():
    trace = perfetto.Trace.FromString(encode_trace("session x", [item("pending", 0, None), item("next", 9, 10)]))
    assert rows(trace) == [("session x", []), ("run", ["pending"]), ("run", ["next"])]
    ends = [p for p in trace.packet if p.track_event.type == perfetto.TrackEvent.TYPE_SLICE_END]
    assert len(ends) == 1


def test_times_are_nanoseconds_and_details_are_kept():
    trace = perfetto.Trace.FromString(encode_trace("session x", [item("a", 0, 1)]))
    root, track, begin, end = trace.packet
    assert track.track_descriptor.parent_uuid == root.track_descriptor.uuid
    assert begin.timestamp == 1767323045_000678_000
    assert end.timestamp - begin.timestamp == 10**9
    values = {note.name: note.string_value or note.int_value for note in begin.track_event.debug_annotations}
    assert values == {"status": "done", "seq_id": 10**18}
