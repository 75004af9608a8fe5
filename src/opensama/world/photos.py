"""Photos as backgrounds: jpg or png files, seen by the same camera as the drawn ones.

The shorter side of a photo spans a square frame, from -1 to 1; beyond its edges it is mirrored.
"""

from __future__ import annotations

import math
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from opensama.values import UserError


@lru_cache(maxsize=4096)
def load_photo(path: Path, side: int) -> Tensor:
    """[3 h w] uint8, the shorter side `side` pixels, the longer one at most thrice that (cut around the middle)."""
    try:
        with Image.open(path) as file:
            image = ImageOps.exif_transpose(file.convert("RGB"))
    except (UnidentifiedImageError, OSError) as error:
        raise UserError(f"The photo {path} cannot be read: replace it or take it out of the folder.") from error
    scale = side / min(image.size)
    width, height = (min(3 * side, round(n * scale)) for n in image.size)
    image = ImageOps.fit(image, (width, height), Image.Resampling.LANCZOS)
    return torch.from_numpy(np.array(image)).movedim(-1, 0).contiguous()


def paint_photo(path: Path, x: Tensor, y: Tensor, unit: float) -> Tensor:
    """[t 3 h w] in 0..1 of the photo at world coordinates x [t 1 1 w], y [t 1 h 1], with `unit` pixels a unit."""
    photo = load_photo(path, math.ceil(2 * unit)).to(x.device).float() / 255
    short, (high, wide) = min(photo.shape[1:]), photo.shape[1:]
    where = torch.stack(torch.broadcast_tensors(x[:, 0] * short / wide, -y[:, 0] * short / high), -1)
    return F.grid_sample(photo.expand(len(x), -1, -1, -1), where, padding_mode="reflection", align_corners=False)
