"""A run as a picture: uploads per second of every system, one panel for each store and size."""

from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from benchmarks.goals import CONNECTIONS
from benchmarks.report import Setting
from benchmarks.results import Case, Results
from benchmarks.stores import KINDS
from benchmarks.systems import DIRECT, OURS

SCALE = 3  # drawn larger, then made smaller, which smooths the edges
PANEL_WIDTH, ROW, TITLE, MARGIN, NAMES = 330, 24, 44, 24, 170  # pixels of the finished picture
_INK, _FAINT, _PAPER = "#24292f", "#8c959f", "#ffffff"
_COLOURS = {OURS: "#1f6feb", DIRECT: "#57606a", "nginx + presigned PUT": "#57606a"}  # the limits are gray
_OTHERS = "#b6c2cf"


@dataclass(frozen=True)
class _Bar:
    system: str
    rate: float


def draw(results: Results, setting: Setting, file: Path) -> None:
    """Writes the picture as PNG; nothing when no uploads were measured."""
    panels = [(store, size, _bars(results, setting, store, size)) for store in setting.stores for size in setting.sizes]
    height = TITLE + ROW * max((len(bars) for _, _, bars in panels), default=0)
    if height == TITLE:
        return
    columns, lines = len(setting.sizes), len(setting.stores)
    size_px = (NAMES + columns * PANEL_WIDTH + MARGIN, lines * (height + MARGIN) + 2 * MARGIN)
    image = Image.new("RGB", (size_px[0] * SCALE, size_px[1] * SCALE), _PAPER)
    pen = ImageDraw.Draw(image)
    for number, (store, size, bars) in enumerate(panels):
        line, column = divmod(number, columns)
        top = MARGIN + line * (height + MARGIN)
        if column == 0:
            for row, bar in enumerate(bars):
                _text(pen, NAMES - 10, top + TITLE + row * ROW, bar.system, anchor="rm", bold=bar.system == OURS)
        _panel(pen, NAMES + column * PANEL_WIDTH, top, f"{size} to {KINDS[store]}", bars)
    foot = f"uploads per second over {CONNECTIONS} connections; medians, {setting.date}, {setting.machine}"
    _text(pen, NAMES, size_px[1] - MARGIN, foot, colour=_FAINT)
    image.resize(size_px, Image.Resampling.LANCZOS).save(file, optimize=True)


def _bars(results: Results, setting: Setting, store: str, size: str) -> list[_Bar]:
    """One bar for each system that any panel has, so that names stand beside every line of panels."""
    shown = [
        system
        for system in setting.systems
        if any(results.median(Case("upload", system, s, z, CONNECTIONS), "rate") is not None for s in setting.stores for z in setting.sizes)
    ]
    return [_Bar(system, results.median(Case("upload", system, store, size, CONNECTIONS), "rate") or 0.0) for system in shown]


def _panel(pen: ImageDraw.ImageDraw, left: int, top: int, title: str, bars: list[_Bar]) -> None:
    _text(pen, left, top + TITLE // 3, title, bold=True)
    longest = max((bar.rate for bar in bars), default=0.0) or 1.0
    room = PANEL_WIDTH - 70
    for row, bar in enumerate(bars):
        middle = top + TITLE + row * ROW
        end = left + max(1, round(room * bar.rate / longest))
        box = [side * SCALE for side in (left, middle - 8, end, middle + 8)]
        pen.rectangle(box, fill=_COLOURS.get(bar.system, _OTHERS))
        _text(pen, end + 6, middle, f"{bar.rate:,.0f}" if bar.rate >= 100 else f"{bar.rate:.1f}", bold=bar.system == OURS)


def _text(pen: ImageDraw.ImageDraw, x: int, y: int, text: str, *, anchor: str = "lm", colour: str = _INK, bold: bool = False) -> None:
    font = ImageFont.load_default(12 * SCALE)
    pen.text((x * SCALE, y * SCALE), text, fill=colour, font=font, anchor=anchor, stroke_width=1 if bold else 0, stroke_fill=colour)
