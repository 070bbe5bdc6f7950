"""The picture of the architecture: boxes and arrows, as SVG that follows dark mode."""

from dataclasses import dataclass
from html import escape
from typing import NamedTuple

WIDTH, HEIGHT = 940, 430
STYLE = """
text { font: 13px system-ui, sans-serif; fill: #1f2328 } .title { font-weight: 600; font-size: 14px } .small { fill: #59636e }
.yours { fill: #fff8e6; stroke: #b58900 } .ours { fill: #eef3ff; stroke: #3f51b5 } .kept { fill: #eaf7ee; stroke: #2e7d4f }
path { stroke: #59636e; fill: none; stroke-width: 1.5; marker-end: url(#head) } marker path { fill: #59636e; marker-end: none }
@media (prefers-color-scheme: dark) {
text { fill: #e6edf3 } .small { fill: #9aa4af } path { stroke: #9aa4af } marker path { fill: #9aa4af }
.yours { fill: #3a3115 } .ours { fill: #1d2547 } .kept { fill: #143021 } }
"""


@dataclass(frozen=True)
class Box:
    """A box: its place and size in pixels, what it is (yours, ours or kept), its title, and lines below."""

    x: int
    y: int
    width: int
    height: int
    kind: str
    title: str
    lines: tuple[str, ...] = ()


class Arrow(NamedTuple):
    """An arrow from the middle of one box's side (l, r, t, b) to that of another; its label has its own place."""

    start: str
    out: str
    end: str
    into: str
    label: str = ""
    x: int = 0
    y: int = 0


BOXES = {
    "config": Box(20, 30, 190, 92, "yours", "config, task, source", ("train.yaml, sweep.yaml", "model.py, data.py")),
    "profile": Box(20, 310, 190, 92, "yours", "profile", ("gpu.yaml: node groups,", "prices, storage, image")),
    "plan": Box(290, 30, 180, 92, "ours", "plan", ("checked, and tried on", "samples; nothing runs yet")),
    "driver": Box(290, 170, 180, 92, "ours", "driver", ("lease, elastic scaling,", "what follows a failure")),
    "cluster": Box(
        290, 310, 420, 92, "ours", "cluster: Kubernetes, or processes here",
        ("head, autoscaled worker groups from zero,", "a recorder of what nodes did"),
    ),
    "workers": Box(530, 170, 180, 92, "ours", "workers", ("the training loop,", "one GPU each, no Ray in it")),
    "dataset": Box(760, 30, 160, 92, "kept", "dataset", ("an index, and shards", "with checksums")),
    "run": Box(760, 170, 160, 92, "kept", "run folder", ("checkpoints, journals,", "code, config, report")),
    "shown": Box(760, 310, 160, 92, "ours", "what is shown", ("runs, cost, reports,", "models, services")),
}  # fmt: skip
ARROWS = [
    Arrow("config", "r", "plan", "l"),
    Arrow("plan", "b", "driver", "t", "starts", 388, 150),
    Arrow("driver", "r", "workers", "l"),
    Arrow("profile", "r", "cluster", "l", "up", 240, 348),
    Arrow("cluster", "t", "driver", "b", "nodes, jobs", 400, 290),
    Arrow("dataset", "l", "workers", "t", "same order at any size", 570, 66),
    Arrow("workers", "r", "run", "l"),
    Arrow("run", "b", "shown", "t"),
]


def picture() -> str:
    """The whole picture."""
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img">',
        f"<style>{STYLE}</style>",
        '<defs><marker id="head" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="8" markerHeight="8" orient="auto">'
        '<path d="M0 0 L8 4 L0 8 z"/></marker></defs>',
        *map(_box, BOXES.values()),
        *map(_arrow, ARROWS),
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


def _box(box: Box) -> str:
    middle = box.x + box.width // 2
    texts = [(box.title, "title", 30), *((line, "small", 54 + 19 * n) for n, line in enumerate(box.lines))]
    written = "".join(
        f'<text class="{kind}" x="{middle}" y="{box.y + down}" text-anchor="middle">{escape(text)}</text>'
        for text, kind, down in texts
    )
    frame = f'<rect class="{box.kind}" x="{box.x}" y="{box.y}" width="{box.width}" height="{box.height}" rx="8"/>'
    return frame + written


def _side(name: str, side: str, other: str) -> tuple[int, int]:
    """The point of a side at which an arrow ends; above a wide box at the middle of the other one."""
    box = BOXES[name]
    if side in "lr":
        return box.x + (box.width if side == "r" else 0), box.y + box.height // 2
    narrow = min(box, BOXES[other], key=lambda each: each.width)
    middle = narrow.x if narrow.x >= box.x and narrow.x + narrow.width <= box.x + box.width else box.x
    width = narrow.width if middle == narrow.x else box.width
    return middle + width // 2, box.y + (box.height if side == "b" else 0)


def _arrow(arrow: Arrow) -> str:
    start, end = _side(arrow.start, arrow.out, arrow.end), _side(arrow.end, arrow.into, arrow.start)
    corner = f" L{end[0]} {start[1]}" if (arrow.out in "lr") != (arrow.into in "lr") else ""
    label = f'<text class="small" x="{arrow.x}" y="{arrow.y}">{escape(arrow.label)}</text>' if arrow.label else ""
    return f'<path d="M{start[0]} {start[1]}{corner} L{end[0]} {end[1]}"/>{label}'
