"""Draw docs/figures/pipeline.svg: the pipeline from Geant4 file to endpoint. Run by `make docs PAGE=picture`."""

from collections.abc import Iterator
from pathlib import Path

PICTURE = Path(__file__).parents[1] / "figures" / "pipeline.svg"
FORWARD = (
    ("Geant4", "files, or a run"),
    ("events", "read and divided"),
    ("training", "on Ray"),
    ("freezing", "exact rewrites"),
    ("quantization", "float32 to int8"),
)
BACK = (
    ("showers", "HDF5 over HTTP"),
    ("serving", "Ray Serve, Helm"),
    ("tracking", "registered in MLflow"),
    ("benchmark", "ratios on one core"),
    ("validation", "gates, with errors"),
)
ENDS = ("Geant4", "showers")
COLORS = {"plain": ("#eef1f6", "#5c6b80"), "end": ("#fff3dd", "#b57614"), "int8": ("#dcebdf", "#2e7d4f")}
BOX, GAP, MARGIN = (158, 58), 32, 20
ROWS = (50, 176)
WIDTH = 2 * MARGIN + 5 * BOX[0] + 4 * GAP
HEIGHT = 290


def main() -> None:
    """Write the picture."""
    PICTURE.write_text("\n".join(lines()) + "\n", encoding="utf-8")


def lines() -> Iterator[str]:
    """Lines of the SVG, which has its own white background for dark viewers."""
    yield (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}" '
        'role="img" font-family="Helvetica, Arial, sans-serif" text-anchor="middle">'
    )
    yield "<title>The path of the data, from a Geant4 file to showers over HTTP</title>"
    yield '<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
    yield '<path d="M0 0 L8 4 L0 8 z" fill="#5c6b80"/></marker></defs>'
    yield f'<rect width="{WIDTH}" height="{HEIGHT}" rx="8" fill="#ffffff"/>'
    for row, boxes in zip(ROWS, (FORWARD, BACK), strict=True):
        for column, (name, note) in enumerate(boxes):
            yield from box(left(column), row, name, note)
    middle = BOX[1] / 2
    for column in range(4):
        yield arrow(f"M{right(column)} {ROWS[0] + middle} H{left(column + 1) - 3}")
        yield arrow(f"M{left(column + 1)} {ROWS[1] + middle} H{right(column) + 3}")
    turn = left(4) + 0.68 * BOX[0]
    yield arrow(f"M{turn} {ROWS[0] + BOX[1]} V{ROWS[1] - 3}")
    lane = (ROWS[0] + BOX[1] + ROWS[1]) / 2
    start, end = left(1) + BOX[0] / 2, left(4) + 0.32 * BOX[0]
    yield arrow(f"M{start} {ROWS[0] + BOX[1]} V{lane} H{end} V{ROWS[1] - 3}", dashed=True)
    yield text((start + end) / 2, lane - 7, "Geant4 showers not used in any earlier step", size=12.5)
    yield text(WIDTH / 2, 28, "Every heavy step is a Ray job, and every result an MLflow run.", size=13)
    yield text(
        WIDTH / 2,
        HEIGHT - 22,
        "Only the network is int8; energies of layers and single deposits stay float32.",
        size=13,
    )
    yield "</svg>"


def box(x: float, y: float, name: str, note: str) -> Iterator[str]:
    """A step: its name, with a few words below."""
    kind = "end" if name in ENDS else "int8" if name == "quantization" else "plain"
    fill, stroke = COLORS[kind]
    yield (
        f'<rect x="{x}" y="{y}" width="{BOX[0]}" height="{BOX[1]}" rx="7" fill="{fill}" stroke="{stroke}" '
        'stroke-width="1.5"/>'
    )
    yield text(x + BOX[0] / 2, y + 25, name, size=16, weight="bold")
    yield text(x + BOX[0] / 2, y + 45, note, size=12.5)


def text(x: float, y: float, words: str, *, size: float, weight: str = "normal") -> str:
    """Words centred at x."""
    return f'<text x="{x:g}" y="{y:g}" font-size="{size:g}" font-weight="{weight}" fill="#1f2733">{words}</text>'


def arrow(path: str, *, dashed: bool = False) -> str:
    """A line with an arrowhead."""
    dash = ' stroke-dasharray="5 4"' if dashed else ""
    return f'<path d="{path}" fill="none" stroke="#5c6b80" stroke-width="1.6"{dash} marker-end="url(#tip)"/>'


def left(column: int) -> float:
    """Left edge of a column of boxes."""
    return MARGIN + column * (BOX[0] + GAP)


def right(column: int) -> float:
    """Right edge of a column of boxes."""
    return left(column) + BOX[0]


if __name__ == "__main__":
    main()
