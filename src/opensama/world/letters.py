"""Our own stroke font, A to Z as distance fields, and the words that the world writes with it.

A letter is drawn about the origin, from -0.5 to 0.5 high; distances are in letter heights.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import torch
from torch import Tensor

from opensama.world.fields import arc, path, plane, union

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
LETTER_WIDTH, LETTER_HEIGHT = 0.5, 0.7  # the atlas covers plus and minus these, in letter heights
STROKE = 0.075  # half a stroke
_GAP = 0.16  # between letters
T, M, B = 0.5 - STROKE, 0.0, STROKE - 0.5  # heights of the strokes at the top, the middle, the bottom
H = 0.25 - STROKE / 2  # half the height of a bowl

# each letter: half its width (of the middle of its strokes), and its strokes
Stroke = Callable[[Tensor, Tensor], Tensor]


def _line(*points: tuple[float, float]) -> Stroke:
    return lambda x, y: path(x, y, STROKE, *points)


def _arc(cx: float, cy: float, a: float, b: float, start: float, end: float) -> Stroke:
    return lambda x, y: arc(x, y, cx, cy, a, b, start, end, STROKE)


W = 0.19  # half the width of most letters
GLYPHS: dict[str, tuple[float, tuple[Stroke, ...]]] = {
    "A": (0.23, (_line((-0.23, B), (0, T), (0.23, B)), _line((-0.14, -0.14), (0.14, -0.14)))),
    "B": (
        W,
        (
            _line((0.02, T), (-W, T), (-W, B), (0.02, B)),
            _line((-W, 0.02), (0.02, 0.02)),
            _arc(0.0, 0.2225, 0.17, 0.2025, -90, 90),
            _arc(0.0, -0.2025, W, 0.2225, -90, 90),
        ),
    ),
    "C": (0.21, (_arc(0.03, 0, 0.24, T, 50, 310),)),
    "D": (0.2, (_line((-0.04, T), (-0.2, T), (-0.2, B), (-0.04, B)), _arc(-0.04, 0, 0.24, T, -90, 90))),
    "E": (0.17, (_line((0.17, T), (-0.17, T), (-0.17, B), (0.17, B)), _line((-0.17, M), (0.11, M)))),
    "F": (0.17, (_line((0.17, T), (-0.17, T), (-0.17, B)), _line((-0.17, M), (0.11, M)))),
    "G": (0.21, (_arc(0.02, 0, 0.23, T, 50, 330), _line((0.06, -0.05), (0.22, -0.05), (0.22, -0.21)))),
    "H": (0.2, (_line((-0.2, T), (-0.2, B)), _line((0.2, T), (0.2, B)), _line((-0.2, M), (0.2, M)))),
    "I": (0.0, (_line((0, T), (0, B)),)),
    "J": (0.16, (_line((0.16, T), (0.16, -0.25)), _arc(0, -0.25, 0.16, 0.175, 0, -180))),
    "K": (0.19, (_line((-0.18, T), (-0.18, B)), _line((0.18, T), (-0.16, -0.02)), _line((-0.06, 0.06), (0.2, B)))),
    "L": (0.16, (_line((-0.16, T), (-0.16, B), (0.16, B)),)),
    "M": (0.24, (_line((-0.24, B), (-0.24, T), (0, -0.1), (0.24, T), (0.24, B)),)),
    "N": (0.2, (_line((-0.2, B), (-0.2, T), (0.2, B), (0.2, T)),)),
    "O": (0.23, (_arc(0, 0, 0.23, T, 0, 360),)),
    "P": (
        W,
        (_line((0.0, T), (-W, T), (-W, B)), _line((-W, -0.03), (0.0, -0.03)), _arc(0, 0.1975, W, 0.2275, -90, 90)),
    ),
    "Q": (0.23, (_arc(0, 0, 0.23, T, 0, 360), _line((0.03, -0.16), (0.27, -0.46)))),
    "R": (
        W,
        (
            _line((0.0, T), (-W, T), (-W, B)),
            _line((-W, -0.01), (0.0, -0.01)),
            _arc(0, 0.2075, W, 0.2175, -90, 90),
            _line((0.02, -0.01), (0.2, B)),
        ),
    ),
    "S": (
        W,
        (_arc(0, 0.2125, W, 0.2125, 30, 270), _arc(0, -0.2125, W, 0.2125, 90, -150)),
    ),
    "T": (0.21, (_line((-0.21, T), (0.21, T)), _line((0, T), (0, B)))),
    "U": (0.2, (_line((-0.2, T), (-0.2, -0.22)), _line((0.2, T), (0.2, -0.22)), _arc(0, -0.22, 0.2, 0.205, 180, 360))),
    "V": (0.23, (_line((-0.23, T), (0, B), (0.23, T)),)),
    "W": (0.27, (_line((-0.27, T), (-0.15, B), (0, 0.15), (0.15, B), (0.27, T)),)),
    "X": (0.21, (_line((-0.21, T), (0.21, B)), _line((-0.21, B), (0.21, T)))),
    "Y": (0.22, (_line((-0.22, T), (0, 0.0), (0.22, T)), _line((0, 0.0), (0, B)))),
    "Z": (W, (_line((-W, T), (W, T), (-W, B), (W, B)),)),
}

_WORDS = """
CAT DOG SUN SKY SEA ICE TEA PIE JAM EGG HEN COW PIG FOX OWL BEE ANT BAT HAT CAP BAG BOX CAR BUS VAN JET MAP PEN
INK CUP JUG POT BED TOY RUN FLY JOY ART DAY ZOO BIRD FISH FROG BEAR WOLF LION DEER GOAT DUCK SWAN CRAB SEAL TREE
LEAF ROSE SEED FERN WOOD PARK FARM HILL LAKE POND RAIN SNOW WIND STAR MOON FIRE ROCK SAND GOLD IRON RING DRUM
HORN BELL SONG BOOK PAGE WORD NOTE NEWS FILM GAME BALL KITE BIKE BOAT SHIP ROAD CITY TOWN HOME DOOR ROOF WALL
DESK LAMP VASE FORK SOUP RICE CORN BEAN PEAR PLUM LIME KIWI MILK CAKE JUMP WALK SWIM SING PLAY READ COOK HELP
LOVE HORSE SHEEP TIGER ZEBRA MOUSE WHALE SNAIL ROBIN APPLE GRAPE LEMON MELON PEACH BREAD HONEY PIZZA WATER JUICE
RIVER BEACH OCEAN CLOUD STORM EARTH WORLD LIGHT NIGHT DREAM MUSIC PIANO DANCE SMILE LAUGH HELLO QUEEN HOUSE
TABLE CHAIR CLOCK TRAIN PLANE TRUCK GLOBE PAINT BRUSH EXTRA SPOON PLATE SHELF STONE RABBIT MONKEY TURTLE PARROT
SPIDER DRAGON FLOWER GARDEN FOREST ISLAND DESERT SUMMER WINTER SPRING ROCKET BRIDGE CASTLE WINDOW PENCIL GUITAR
VIOLIN ORANGE BANANA CHERRY TOMATO CARROT COOKIE BUTTER DINNER FAMILY
"""
CAPTION_WORDS = tuple(_WORDS.split())


def layout(word: str) -> tuple[tuple[int, float], ...]:
    """For each letter its index in the alphabet and the x of its middle, in letter heights from the word's middle."""
    halves = [GLYPHS[letter][0] + STROKE + _GAP / 2 for letter in word]
    starts = [2 * sum(halves[:i]) for i in range(len(word))]
    return tuple(
        (LETTERS.index(letter), start + half - sum(halves))
        for letter, start, half in zip(word, starts, halves, strict=True)
    )


@lru_cache(maxsize=4)
def letter_atlas(device: str = "cpu", rows: int = 56, columns: int = 40) -> Tensor:
    """[letter, rows, columns]: distances in letter heights over +-LETTER_WIDTH, LETTER_HEIGHT, first row on top."""
    x, y = plane(LETTER_WIDTH, LETTER_HEIGHT, columns, rows)
    glyphs = [union(*(stroke(x, y) for stroke in strokes)) for _, strokes in GLYPHS.values()]
    return torch.stack(glyphs).float().to(device)
