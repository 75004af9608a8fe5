"""`opensama world`: the drawn world on contact sheets, a picture for each family of edits."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import App
from PIL import Image, ImageDraw, ImageFont

from opensama.apps.options import HOW_MANY, OUT, OVERWRITE, check_free
from opensama.runtime import whole_file
from opensama.values import UserError

if TYPE_CHECKING:
    import numpy as np

    from opensama.world import EditSample, Scene, Thing

    Tile = tuple[str, Sequence[np.ndarray]]  # a caption, and the pictures under it from top to bottom

_SIDE = 128  # pixels of a drawn frame
_FRAMES = 9
TILE_GAP = 6
LINE_HEIGHT = 13  # pixels of a line of text
MAX_BYTES = 112_000  # bytes: what one sheet may weigh
_SMALL = 72  # pixels of a picture of one object

app = App(name="world", help="The drawn world, where every edit has an exact answer.")


@app.command
def sheets(
    *,
    out: Annotated[Path, OUT] = Path("world-sheets"),
    split: Literal["train", "test"] = "train",
    number: Annotated[int, HOW_MANY] = 9,
    seed: int = 0,
    overwrite: Annotated[bool, OVERWRITE] = False,
) -> None:
    """Draw a contact sheet of every family of edits: sources above their exact answers.

    Beside them, a sheet of all kinds of objects and one of all backgrounds.

    Parameters
    ----------
    out
        The folder to write into: a PNG file for each family.
    split
        train: objects, colours and phrasings to train on; test: those kept from training.
    number
        How many edits a family; styles are shown once each.
    seed
        Another number draws other edits.
    overwrite
        Write into the folder though it holds something.
    """
    if not 1 <= number <= 60:
        raise UserError(f"A sheet shows from 1 to 60 edits, not {number}.")
    check_free(out, overwrite)
    from opensama.apps.demo import make_output_folder
    from opensama.world import CONTROL_FAMILIES, EDIT_FAMILIES

    make_output_folder(out, "--out")
    save_small_png(captioned_sheet(list(_kind_tiles()), columns=7), out / "kinds.png")
    save_small_png(captioned_sheet(list(_background_tiles()), columns=6), out / "backgrounds.png")
    for family in (*EDIT_FAMILIES, *CONTROL_FAMILIES):
        whole = family == "style"
        samples = edit_examples(family, split, None if whole else number, seed)
        moments, columns = ((_FRAMES - 1,), 6) if whole else ((0, _FRAMES - 1), 3)
        tiles = [(s.instruction, [_side_by_side(clip, moments) for clip in (s.source, s.target)]) for s in samples]
        save_small_png(captioned_sheet(tiles, columns), out / f"{family}.png")
    print(f"written: {len(list(out.glob('*.png')))} pictures in {out}")


def edit_examples(family: str, split: Literal["train", "test"], number: int | None, seed: int) -> list[EditSample]:
    """Edits about different things, the first that are drawn; without a number, one of each style."""
    from opensama.world import STYLES, plan_edit, sample_edit

    wanted = len(STYLES) if number is None else number
    found: dict[str, int] = {}
    for i in range(40 * wanted):
        plan = plan_edit(f"{seed}-{i}", split, family)
        found.setdefault(plan.edited or plan.instruction, i)
        if len(found) == wanted:
            break
    return [sample_edit(f"{seed}-{i}", split, family, _FRAMES, _SIDE) for i in found.values()]


def _kind_tiles() -> Iterator[Tile]:
    """Every kind of object, the colours in turn; then every texture, and every accessory on an object of its own."""
    from opensama.world import COLORS, KINDS, TEXTURES, WEARABLES, Thing
    from opensama.world.scenes import Wear

    colors = [color for color in COLORS if color != "white"]
    for i, kind in enumerate(KINDS):
        yield kind, [_picture(_plain(Thing(kind, colors[i % len(colors)], 0, 0, 0.78)), _SMALL)]
    for texture in TEXTURES:
        yield texture, [_picture(_plain(Thing("heart", "green", 0, 0, 0.78, texture=texture)), _SMALL)]
    for i, wear in enumerate(WEARABLES):
        worn = Thing(KINDS[5 * i % len(KINDS)], "blue", 0, -0.2, 0.6, wears=Wear(wear, "red"))
        yield wear, [_picture(_plain(worn), _SMALL)]


def _background_tiles() -> Iterator[Tile]:
    from opensama.world import BACKGROUNDS

    for name in BACKGROUNDS:
        yield name, [_picture(_plain().on(name), _SIDE)]


def _plain(*things: Thing) -> Scene:
    """Objects that stand still on an even ground that none of their colours is lost on."""
    from opensama.world import BACKGROUNDS, Scene

    name, look = next(iter(BACKGROUNDS.items()))
    return Scene(things, name, ((0.80, 0.84, 0.88),) * len(look.palette), look.waves)


def _picture(scene: Scene, side: int) -> np.ndarray:
    from opensama.world import render, to_uint8

    return to_uint8(render([scene], 1, side, side)[0, 0])


def _side_by_side(clip: np.ndarray, moments: tuple[int, ...]) -> np.ndarray:
    import numpy as np

    line = np.full((clip.shape[1], 2, 3), 255, np.uint8)
    return np.concatenate([part for i in moments for part in (clip[i], line)][:-1], 1)


def captioned_sheet(tiles: Sequence[Tile], columns: int) -> Image.Image:
    """Tiles in rows on white, each picture under the one before, the caption on top in as many lines as it needs."""
    width = tiles[0][1][0].shape[1]
    high = sum(p.shape[0] for p in tiles[0][1]) + 2 * (len(tiles[0][1]) - 1)
    font = ImageFont.load_default(11)
    captions = [_wrapped(text, width, font) for text, _ in tiles]
    columns = min(columns, len(tiles))
    rows = [range(i, min(i + columns, len(tiles))) for i in range(0, len(tiles), columns)]
    heights = [LINE_HEIGHT * max(len(captions[i]) for i in row) + 3 + high + 2 * TILE_GAP for row in rows]
    out = Image.new("RGB", (columns * (width + 2 * TILE_GAP) - TILE_GAP, sum(heights)), "white")
    draw = ImageDraw.Draw(out)
    top = 0
    for row, height in zip(rows, heights, strict=True):
        for place, i in enumerate(row):
            left = place * (width + 2 * TILE_GAP)
            for line, text in enumerate(captions[i]):
                draw.text((left, top + LINE_HEIGHT * line), text, fill="black", font=font)
            down = top + height - high - 2 * TILE_GAP
            for tile in tiles[i][1]:
                out.paste(Image.fromarray(tile), (left, down))
                down += tile.shape[0] + 2
        top += height
    return out


def _wrapped(text: str, width: int, font: ImageFont.ImageFont | ImageFont.FreeTypeFont) -> list[str]:
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if font.getlength(longer) <= width or not lines[-1]:
            lines[-1] = longer
        else:
            lines.append(word)
    return lines


def save_small_png(image: Image.Image, path: Path) -> None:
    """As PNG, with fewer colours until it weighs no more than `MAX_BYTES`."""
    for colors in (256, 160, 96, 64, 40, 24):
        file = BytesIO()
        image.quantize(colors, Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE).save(file, "PNG", optimize=True)
        if file.tell() <= MAX_BYTES:
            break
    with whole_file(path) as temporary:
        temporary.write_bytes(file.getvalue())
