"""What was measured, and the middle of it."""

import statistics
from collections import defaultdict
from dataclasses import dataclass, field


@dataclass(frozen=True, order=True)
class Case:
    """What one number belongs to. `scenario` is upload, redirect, slow or start; the others are empty where they say nothing."""

    scenario: str
    system: str
    store: str = ""
    size: str = ""
    connections: int = 0


@dataclass
class Results:
    """Every measurement of a run by case and quantity (named with its unit), what failed, and who was left out."""

    _values: dict[tuple[Case, str], list[float]] = field(default_factory=lambda: defaultdict(list))
    failures: list[str] = field(default_factory=list)
    left_out: dict[str, str] = field(default_factory=dict)

    def add(self, case: Case, **quantities: float) -> None:
        """Keeps one measurement."""
        for quantity, value in quantities.items():
            self._values[case, quantity].append(value)

    def values(self, case: Case, quantity: str) -> list[float]:
        """All measurements of a quantity, in the order of the rounds."""
        return self._values.get((case, quantity), [])

    def median(self, case: Case, quantity: str) -> float | None:
        """The middle of a quantity, or None when it was not measured."""
        values = self.values(case, quantity)
        return statistics.median(values) if values else None

    def largest(self, quantity: str, system: str) -> float | None:
        """The most of a quantity in any case of a system."""
        found = [max(values) for (case, name), values in self._values.items() if name == quantity and case.system == system]
        return max(found, default=None)

    def ratio(self, case: Case, other: Case, quantity: str) -> float | None:
        """The median of one case over that of another."""
        mine, theirs = self.median(case, quantity), self.median(other, quantity)
        return mine / theirs if mine is not None and theirs else None
