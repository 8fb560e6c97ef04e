"""Measurements, the lines of the report."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class Measurement:
    """One result of ours, with the peer's, the machine's limit, and the goal."""

    work: str
    setting: str
    unit: str
    ours: float
    peer: float | None = None
    limit: float | None = None
    """Upper bound by the machine, in the same unit."""
    wanted_ratio: float | None = None
    """Goal for ours / peer: at least this, or below it if less is better."""
    wanted: float | None = None
    """Goal for ours if there is no peer: at most this."""
    less_is_better: bool = False

    @property
    def ratio(self) -> float | None:
        return self.ours / self.peer if self.peer else None

    @property
    def share_of_limit(self) -> float | None:
        return self.ours / self.limit if self.limit else None

    @property
    def goal(self) -> str:
        if self.wanted_ratio is not None:
            return f"{'<' if self.less_is_better else '>='} {self.wanted_ratio:g}x"
        return f"<= {self.wanted:g} {self.unit}" if self.wanted is not None else ""

    @property
    def is_met(self) -> bool | None:
        """Whether the goal is met; None if there is none."""
        if self.wanted_ratio is not None and self.ratio is not None:
            return self.ratio < self.wanted_ratio if self.less_is_better else self.ratio >= self.wanted_ratio
        return None if self.wanted is None else self.ours <= self.wanted
