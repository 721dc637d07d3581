"""Glyphs: the built-in stand-in for Omniglot, drawn from the fonts that matplotlib ships.

A class is one letter of one of the world's scripts. Its glyph is thinned to the line that a pen
would follow, and twenty drawers trace that line. Each drawer copies one typeface and has a pen, a
slant, a size and a bend of their own, and each drawing varies a little around these. Where letters
look alike, in one script or in two, only one is kept. Whole scripts are held out for validation and
test. Letters were compared upright only: some are turned copies of others, as in Canadian
syllabics.
"""

import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F

from mamlpp.data.cache import cached
from mamlpp.data.images import ImageSet

if TYPE_CHECKING:
    from matplotlib.ft2font import FT2Font

VERSION = 2
SEED = 28
# A script is named by the first word of its letters' Unicode names.
SCRIPTS = {
    "train": ("LATIN", "CANADIAN", "ARABIC", "CYRILLIC", "LISU"),
    "validation": ("GREEK", "COPTIC", "OGHAM"),
    "test": ("GEORGIAN", "ARMENIAN", "HEBREW", "TIFINAGH", "LAO", "NKO", "OLD"),
}
# Letters in upper case, in lower case and without case, but no combining marks or modifiers.
CATEGORIES = ("Lu", "Ll", "Lo")
# Letters that a typeface lacks are taken from the first one. All are upright, because drawers have
# a slant of their own, and sans serif, because pens draw no serifs, and DejaVu Serif gives some
# Armenian letters another shape.
FACES = ("DejaVuSans", "DejaVuSans-Bold", "DejaVuSansMono", "DejaVuSansMono-Bold")
DRAWERS = 20

# Sides in pixels: of the square in which a glyph is rendered, of the canvas (that square with a
# margin), of a drawing while it is drawn, and of a finished drawing.
GLYPH, CANVAS, FINE, SIDE = 66, 106, 56, 28
# How many pixels the line of a letter may have: less is only a dot, and more runs together in a
# finished drawing.
SHORTEST, LONGEST = 24, 280
# Two letters look alike when their `unlikeness` is below this number, which was chosen by eye.
ALIKE = 280
# How much narrower, for its height, one of two letters is made when they are compared.
STRETCHES = (0.7, 0.85)
# Half the width of a pen's stroke, in pixels of a finished drawing.
PEN = 0.85
# How much the drawers differ, and how much the drawings of one drawer differ: standard deviations,
# of lengths in half canvases, of angles in radians, and of logarithms of the others.
SPREAD = {
    "angle": (0.05, 0.08),
    "slant": (0.15, 0.06),
    "stretch": (0.10, 0.08),
    "size": (0.08, 0.08),
    "right": (0.04, 0.07),
    "down": (0.04, 0.07),
    "pen": (0.20, 0.08),
    "bend": (0.03, 0.06),
}

Pixels = npt.NDArray[np.uint8]


def load(split: str) -> ImageSet:
    """One split of the glyphs, uint8 `[classes, 20, 1, 28, 28]`, from the cache or newly built."""
    import matplotlib

    return cached("glyphs", split, f"{VERSION}-matplotlib-{matplotlib.__version__}", build)


def build() -> dict[str, ImageSet]:
    """All three splits, made from the fonts in a few seconds; every time the same to the bit."""
    letters = distinct_letters()
    images = draw(letters)
    sets = {}
    for split, scripts in SCRIPTS.items():
        rows = [row for row, letter in enumerate(letters) if script(letter) in scripts]
        names = tuple(unicodedata.name(letters[row]) for row in rows)
        sets[split] = ImageSet(images[rows], names, "glyphs", split)
    return sets


# Which letters ----------------------------------------------------------------------------------


def script(letter: str) -> str:
    """The first word of a letter's Unicode name, such as `GREEK`; empty when it has no name."""
    return unicodedata.name(letter, "").partition(" ")[0]


def all_letters() -> list[str]:
    """Every letter of the scripts in use that the first typeface has, in Unicode order."""
    used = {name for scripts in SCRIPTS.values() for name in scripts}
    letters = map(chr, sorted(open_font(FACES[0]).get_charmap()))
    return [x for x in letters if unicodedata.category(x) in CATEGORIES and script(x) in used]


def distinct_letters() -> list[str]:
    """The letters in use, in Unicode order: no two look alike, none is empty or too full to draw.

    Letters with the fewest look-alikes are kept first, because this keeps the most letters.
    """
    letters = all_letters()
    lines = thin(silhouettes(letters, FACES[0]))
    alike = unlikeness(lines) < ALIKE
    length = torch.from_numpy(lines.sum((1, 2), dtype=np.int64))
    left_out = (length < SHORTEST) | (length > LONGEST)
    kept = []
    for row in alike.sum(1).argsort(stable=True).tolist():
        if not left_out[row]:
            kept.append(row)
            left_out |= alike[row]
    return [letters[row] for row in sorted(kept)]


def unlikeness(lines: Pixels) -> torch.Tensor:
    """How different the letters of each pair are, `[n, n]`, from their lines `[n, 66, 66]`.

    Every mark of one letter adds the fourth power of its distance to the nearest mark of the other:
    a line that is slightly off adds almost nothing, a dot that the other letter lacks adds a lot.
    One letter may be stretched to fit the other, since drawers stretch letters too. The sums are of
    whole numbers small enough to be exact, so neither their order nor the number of threads can
    change which letters are kept.
    """
    strokes = F.max_pool2d(torch.from_numpy(lines).float().unsqueeze(1), 3, stride=1, padding=1)
    marks, distances = marks_and_distances(strokes)
    least = torch.full((len(lines), len(lines)), torch.inf)
    for stretch in (1.0, *STRETCHES):
        own_marks, own_distances = marks_and_distances(stretched(strokes, stretch))
        least = torch.minimum(least, own_marks @ distances.T + own_distances @ marks.T)
    return torch.minimum(least, least.T)


def stretched(strokes: torch.Tensor, stretch: float) -> torch.Tensor:
    """Pictures `[n, 1, 66, 66]` made wider by the root of `stretch`, and lower by as much."""
    squeeze = torch.tensor([[[stretch**-0.5, 0, 0], [0, stretch**0.5, 0]]])
    grid = F.affine_grid(squeeze, [1, 1, GLYPH, GLYPH], align_corners=False)
    wide = grid.expand(len(strokes), -1, -1, -1)
    return F.grid_sample(strokes, wide, mode="nearest", align_corners=False)


def marks_and_distances(strokes: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Where the marks are on a coarse grid, and the fourth powers of the distances to them."""
    marks = F.max_pool2d(strokes.squeeze(1), kernel_size=4, stride=3, padding=1)
    squares = squared_distances(marks.to(torch.uint8).numpy(), reach=7)
    return marks.flatten(1), torch.from_numpy(squares).float().square().flatten(1)


# From a glyph to the line a pen follows ---------------------------------------------------------


def open_font(face: str) -> "FT2Font":
    """A typeface from matplotlib's own files, never one that is installed on the system."""
    import matplotlib
    from matplotlib.ft2font import FT2Font

    return FT2Font(str(Path(matplotlib.get_data_path(), "fonts", "ttf", f"{face}.ttf")))


def silhouettes(letters: list[str], face: str) -> Pixels:
    """The letters in a typeface, or in the first one if it lacks them: 0 or 1, `[n, 66, 66]`."""
    own, spare = open_font(face), open_font(FACES[0])
    available = own.get_charmap()
    return np.stack([silhouette(own if ord(x) in available else spare, x) for x in letters])


def silhouette(font: "FT2Font", letter: str) -> Pixels:
    """One letter, 0 or 1, centred in a square `[66, 66]` that its longer side almost fills."""
    from matplotlib.ft2font import LoadFlags
    from PIL import Image

    font.set_size(3 * GLYPH, 72)
    font.set_text(letter, flags=LoadFlags.NO_HINTING)
    font.draw_glyphs_to_bitmap()
    picture = Image.fromarray(np.asarray(font.get_image()))
    square = Image.new("L", (GLYPH, GLYPH))
    if box := picture.getbbox():
        width, height = box[2] - box[0], box[3] - box[1]
        scale = (GLYPH - 2) / max(width, height)
        size = max(1, round(width * scale)), max(1, round(height * scale))
        corner = (GLYPH - size[0]) // 2, (GLYPH - size[1]) // 2
        square.paste(picture.resize(size, Image.Resampling.BILINEAR, box), corner)
    return (np.asarray(square) > 127).astype(np.uint8)


def thin(ink: Pixels) -> Pixels:
    """Pictures of 0 and 1 `[n, height, width]` thinned to lines that are one pixel wide.

    This is the thinning of Guo and Hall (1989): edge pixels are removed from two sides in turn
    until nothing changes. It never breaks a line or loses a dot.
    """
    tables = [np.array([stays(code, turn) for code in range(256)], np.uint8) for turn in (0, 4)]
    thinned, busy = ink.copy(), np.arange(len(ink))
    while len(busy):
        before = thinned[busy]
        after = before.copy()
        for table in tables:
            after[:, 1:-1, 1:-1] &= table[neighbourhoods(after)]
        thinned[busy] = after
        busy = busy[(after != before).any((1, 2))]
    return thinned


def neighbourhoods(ink: Pixels) -> Pixels:
    """The eight neighbours of each inner pixel as bits, clockwise from north."""
    height, width = ink.shape[1] - 2, ink.shape[2] - 2
    codes = np.zeros_like(ink[:, 1:-1, 1:-1])
    ring = [(0, 1), (0, 2), (1, 2), (2, 2), (2, 1), (2, 0), (1, 0), (0, 0)]
    for bit, (row, column) in enumerate(ring):
        codes |= ink[:, row : row + height, column : column + width] << bit
    return codes


def stays(code: int, turn: int) -> bool:
    """Whether a pixel with these neighbours stays when edges are removed on the side of `turn`.

    A pixel on an edge has one strand of line passing through it, and two or three pairs of
    neighbours that touch it. With fewer pairs it is the end of a line.
    """
    ring = [bool(code >> bit & 1) for bit in range(8)]
    strands = sum(not ring[i] and (ring[i + 1] or ring[(i + 2) % 8]) for i in (0, 2, 4, 6))
    pairs = min(sum(ring[i - s] or ring[i + 1 - s] for i in (0, 2, 4, 6)) for s in (0, 1))
    north, north_east, east, south_east = (ring[(i + turn) % 8] for i in range(4))
    inside = (north or north_east or not south_east) and east
    return strands != 1 or pairs not in (2, 3) or inside


def squared_distances(marks: Pixels, reach: int) -> Pixels:
    """The squared distance of each pixel to the nearest mark, at most `reach` squared."""
    nearest = np.where(marks, 0, reach**2).astype(np.uint8)
    for axis in (1, 2):
        room = [(reach, reach) if axis == a else (0, 0) for a in range(3)]
        padded = np.pad(nearest, room, constant_values=reach**2)
        length = marks.shape[axis]
        for step in range(-reach, reach + 1):
            moved = padded[(slice(None),) * axis + (slice(reach + step, reach + step + length),)]
            np.minimum(nearest, moved + np.uint8(step**2), out=nearest)
    return nearest


# From the line to twenty drawings ---------------------------------------------------------------


def draw(letters: list[str]) -> torch.Tensor:
    """Every letter by every drawer: uint8 `[letters, 20, 1, 28, 28]`, ink 255 on paper 0."""
    images = torch.empty(len(letters), DRAWERS, 1, SIDE, SIDE, dtype=torch.uint8)
    for first, face in enumerate(FACES):
        distances = line_distances(thin(silhouettes(letters, face)))
        for drawer in range(first, DRAWERS, len(FACES)):
            hand = dict(draw_hand(np.random.default_rng([SEED, drawer]), len(letters)))
            for some in torch.arange(len(letters)).split(100):  # what fits a processor's cache
                images[some, drawer] = trace(
                    distances[some], {way: values[some] for way, values in hand.items()}
                )
    return images


def line_distances(lines: Pixels) -> torch.Tensor:
    """The distance from each pixel of the canvas to the line, `[n, 1, 106, 106]`, in pixels."""
    room = (CANVAS - GLYPH) // 2
    marks = np.pad(lines, ((0, 0), (room, room), (room, room)))
    return torch.from_numpy(squared_distances(marks, reach=10)).double().sqrt().unsqueeze(1)


def draw_hand(rng: np.random.Generator, drawings: int) -> Iterator[tuple[str, torch.Tensor]]:
    """One drawer's habits in each drawing: `[n]` each, except `bend`, which is `[n, 2, 4, 4]`."""
    for way, (between, within) in SPREAD.items():
        shape = (2, 4, 4) if way == "bend" else ()
        own, wobble = rng.normal(size=shape), rng.normal(size=(drawings, *shape))
        # At most two standard deviations from the mean, so that letters stay readable.
        values = between * own.clip(-2, 2) + within * wobble.clip(-2, 2)
        yield way, torch.from_numpy(values)


def trace(distances: torch.Tensor, hand: dict[str, torch.Tensor]) -> torch.Tensor:
    """The drawings that a hand makes of a line: uint8 `[n, 1, 28, 28]`.

    For each pixel, `origins` says where on the canvas the hand took it from. The pixel is inked if
    the line is less than half a stroke away there. This is drawn at twice the size and then shrunk.
    In double precision: in single, processors that round otherwise make other pictures.
    """
    # [n, 1, 56, 56]
    found = F.grid_sample(distances, origins(hand), padding_mode="border", align_corners=False)
    size, pen = (hand[way].exp().view(-1, 1, 1, 1) for way in ("size", "pen"))
    inside = PEN * pen - found * size * SIDE / CANVAS
    ink = (inside * FINE / SIDE + 0.5).clamp(0, 1)
    return (F.avg_pool2d(ink, FINE // SIDE) * 255).round().to(torch.uint8)


def origins(hand: dict[str, torch.Tensor]) -> torch.Tensor:
    """The place on the canvas of each pixel of a drawing: `[n, 56, 56, 2]`, x and y in -1..1."""
    way = {name: values.view(-1, 1, 1) for name, values in hand.items() if name != "bend"}
    bend = F.interpolate(hand["bend"], (FINE, FINE), mode="bicubic", align_corners=True)
    axis = (torch.arange(FINE, dtype=torch.float64) + 0.5) * 2 / FINE - 1
    x = axis + bend[:, 0] - way["right"]
    y = axis.unsqueeze(1) + bend[:, 1] - way["down"]
    cos, sin = way["angle"].cos(), way["angle"].sin()
    x, y = cos * x + sin * y, cos * y - sin * x
    x = (x + way["slant"] * y) / (way["size"] + way["stretch"]).exp()
    y = y / (way["size"] - way["stretch"]).exp()
    return torch.stack([x, y], dim=-1)
