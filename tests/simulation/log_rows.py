"""The operation log as it is in the database, read without the server's code."""

from __future__ import annotations

import json
import sqlite3
from collections import defaultdict
from typing import NamedTuple

import numpy as np

from eztinker.protocol import wire_pb2


class Row(NamedTuple):
    op_id: str
    seq_id: int
    kind: str
    status: str
    payload: str | None
    epoch: int | None
    media_type: str | None
    result: bytes | None
    error_code: str | None


class Log:
    """The rows as they are in the database."""

    def __init__(self, raw: sqlite3.Connection) -> None:
        self.raw = raw

    def rows(self) -> dict[str, list[Row]]:
        """Numbered operations by lane, in order."""
        found: defaultdict[str, list[Row]] = defaultdict(list)
        columns = ", ".join(Row._fields)
        query = f"SELECT lane, {columns} FROM operations WHERE seq_id IS NOT NULL ORDER BY lane, seq_id"
        for lane, *row in self.raw.execute(query):
            found[lane].append(Row(*row))
        return found

    def count(self, query: str) -> int:
        return self.raw.execute(f"SELECT count(*) FROM {query}").fetchone()[0]

    def column(self, query: str) -> list[str]:
        return [row[0] for row in self.raw.execute(query)]


def number_in(media_type: str, result: bytes) -> int | None:
    """The number that the engine put into a result."""
    if media_type == "application/x-protobuf":
        return int(wire_pb2.ForwardBackwardOutput.FromString(result).metrics["loss:sum"])
    metrics = json.loads(result).get("metrics")
    return None if metrics is None else int(metrics["state"])


def token_in(result: bytes) -> int:
    return int(np.frombuffer(wire_pb2.SampleResponse.FromString(result).sequences[0].tokens, "<i4")[0])
