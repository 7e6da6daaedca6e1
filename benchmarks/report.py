"""A run as Markdown."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from benchmarks import goals
from benchmarks.results import Case, Results
from benchmarks.scenarios import REDIRECT_CONNECTIONS
from benchmarks.stores import KINDS
from benchmarks.systems import OURS

NOTHING = "-"
Row = Sequence[str]


@dataclass(frozen=True)
class Setting:
    """What a report says about how it came about; a smoke test has no verdict.

    `stores` are keys of stores.KINDS, `sizes` and `systems` labels in the order of the tables.
    """

    date: str
    smoke: bool
    machine: str
    versions: dict[str, str]
    rounds: int
    seconds: int
    large_seconds: int
    slow: int
    stores: Sequence[str]
    sizes: Sequence[str]
    connections: Sequence[int]
    systems: Sequence[str]


def markdown(results: Results, setting: Setting) -> str:
    """The whole report."""
    parts = [_head(setting), "" if setting.smoke else _goals(results, setting)]
    parts += [_uploads(results, setting, store, size) for store in setting.stores for size in setting.sizes]
    parts += [_redirects(results, setting), _slow(results, setting), _start(results, setting), _troubles(results), _versions(setting)]
    return "\n\n".join(part for part in parts if part) + "\n"


def _head(setting: Setting) -> str:
    length = f"{setting.seconds} s each ({setting.large_seconds} s for 10 MB)"
    return (
        f"# {setting.date}\n\n{setting.machine}; load generator, backend stub and store on the same machine.\n"
        f"Medians of the rounds ({setting.rounds}), in which the systems take turns, of {length}; in brackets the least and the most.\n"
        "`ours ÷` is this service's median over that of the row. CPU is that of the row's own processes, not the store's, for one request."
    )


def _goals(results: Results, setting: Setting) -> str:
    rows = []
    for goal in goals.ALL:
        sign = "≥" if goal.at_least else "≤"
        row = [goal.what, f"{sign} {goal.limit:g} {goal.unit}"]
        for store in setting.stores:
            value = goal.read(results, store)
            row += [_number(value), goal.verdict(value)]
        rows.append(row)
    head = ["goal", "limit", *(cell for store in setting.stores for cell in (KINDS[store], ""))]
    return f"## Goals\n\n{goals.CONNECTIONS} connections where nothing else is said.\n\n{_table(head, rows)}"


def _uploads(results: Results, setting: Setting, store: str, size: str) -> str:
    rows = []
    for system in setting.systems:
        cases = [Case("upload", system, store, size, connections) for connections in setting.connections]
        if all(results.median(case, "rate") is None for case in cases):
            continue
        row = [system]
        for case in cases:
            row += [_spread(results, case, "rate"), _ratio(results, case), _pair(results, case), _number(results.median(case, "cpu_ms"))]
        memory = cases[-1]
        rows.append([*row, _number(results.median(memory, "process_mib")), _number(results.median(memory, "tree_mib"))])
    each = [name for connections in setting.connections for name in (f"uploads/s, {connections} conn.", "ours ÷", "p50 / p99 ms", "CPU ms")]
    head = ["system", *each, "largest process MiB", "all processes MiB"]
    return f"## {size} to {KINDS[store]}\n\n{_table(head, rows)}" if rows else ""


def _redirects(results: Results, setting: Setting) -> str:
    rows = []
    for system in setting.systems:
        case = Case("redirect", system, connections=REDIRECT_CONNECTIONS)
        if results.median(case, "rate") is not None:
            numbers = [_number(results.median(case, quantity)) for quantity in ("cpu_ms", "process_mib")]
            rows.append([system, _spread(results, case, "rate"), _ratio(results, case), _pair(results, case), *numbers])
    head = ["system", "redirects/s", "ours ÷", "p50 / p99 ms", "CPU ms", "largest process MiB"]
    return f"## Redirects, {REDIRECT_CONNECTIONS} connections\n\n{_table(head, rows)}" if rows else ""


def _slow(results: Results, setting: Setting) -> str:
    rows = []
    for system in setting.systems:
        case = Case("slow", system)
        if results.median(case, "slow_kib") is not None:
            quantities = ("rate", "p50_ms", "p99_ms", "fast_upload_seconds", "slow_kib", "process_mib", "tree_mib", "lost")
            rows.append([system, *(_number(results.median(case, quantity)) for quantity in quantities)])
    head = [
        "system",
        "redirects/s",
        "p50 ms",
        "p99 ms",
        "slowest 50 kB upload s",
        "KiB per slow upload",
        "largest process MiB",
        "all processes MiB",
    ]
    title = f"## Beside {setting.slow} slow uploads"
    return f"{title}\n\n{_table([*head, 'slow uploads lost'], rows)}" if rows else ""


def _start(results: Results, setting: Setting) -> str:
    cases = [Case("start", system) for system in setting.systems]
    rows = [[case.system, _spread(results, case, "start_seconds")] for case in cases if results.median(case, "start_seconds") is not None]
    return f"## Start to first answer\n\n{_table(['system', 'seconds'], rows)}" if rows else ""


def _troubles(results: Results) -> str:
    left_out = [f"{name}: left out, {reason}." for name, reason in results.left_out.items()]
    counted = [f"{text} ({results.failures.count(text)} times)." for text in dict.fromkeys(results.failures)]
    return "## Left out, or failed\n\n" + _list(left_out + counted) if left_out + counted else ""


def _versions(setting: Setting) -> str:
    return "## Versions\n\n" + _list(f"{name}: {version}" for name, version in setting.versions.items())


def _list(lines: Iterable[str]) -> str:
    return "\n".join(f"- {line}" for line in lines)


def _table(head: Row, rows: Sequence[Row]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _number(value: float | None) -> str:
    """Three figures, which is more than the noise allows."""
    if value is None:
        return NOTHING
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def _spread(results: Results, case: Case, quantity: str) -> str:
    values = results.values(case, quantity)
    middle = _number(results.median(case, quantity))
    return middle if len(values) < 2 else f"{middle} ({_number(min(values))} to {_number(max(values))})"


def _pair(results: Results, case: Case) -> str:
    return f"{_number(results.median(case, 'p50_ms'))} / {_number(results.median(case, 'p99_ms'))}"


def _ratio(results: Results, case: Case) -> str:
    ours = Case(case.scenario, OURS, case.store, case.size, case.connections)
    ratio = results.ratio(ours, case, "rate")
    return NOTHING if ratio is None or case.system == OURS else f"{ratio:.2f}"
