"""One line of the report."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class Measurement:
    """What we did, what the peer did, what the machine allows, and what we want."""

    work: str
    setting: str
    unit: str
    ours: float
    peer: float | None = None
    limit: float | None = None
    """An upper bound, in the same unit."""
    wanted_ratio: float | None = None
    """Goal for ours / peer: at least this, or below it where less is better."""
    wanted: float | None = None
    """Goal for ours, where there is no peer: at most this."""
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
        """None where there is no goal."""
        if self.wanted_ratio is not None and self.ratio is not None:
            return self.ratio < self.wanted_ratio if self.less_is_better else self.ratio >= self.wanted_ratio
        return None if self.wanted is None else self.ours <= self.wanted
