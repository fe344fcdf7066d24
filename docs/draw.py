"""What stands on the landing page for the figure "draw" where there is no JavaScript. Run once: `python docs/draw.py`.

A test digit, then five draws of z from its posterior, decoded. Ink is opacity, as in hero.py, so that the same file reads
on light and on dark.
"""
from pathlib import Path

import numpy as np
from PIL import Image

from vae_nbdev.explorables import example_digits, first_look

SCALE, GAP, INDIGO, ORANGE = 4, 8, (59, 91, 219), (232, 89, 12)  # pixels per pixel; pixels between pictures


def strip():
    "The digit in indigo, the five pictures in orange, (H, W, 4)."
    tensors, facts = first_look("mnist-fast")
    tiles = [example_digits()[0][2 * facts["digit"], 0].numpy(), *tensors["pictures"].reshape(5, 28, 28).numpy() / 255]
    tiles = [np.pad(tile, ((0, 0), (0, 3 * GAP if i == 0 else GAP))) for i, tile in enumerate(tiles)]
    colour = np.concatenate([np.broadcast_to(ORANGE if i else INDIGO, (*tile.shape, 3)) for i, tile in enumerate(tiles)], 1)
    ink = np.concatenate(tiles, 1)[:, :-GAP]
    picture = np.dstack([colour[:, :-GAP], 255 * ink]).round().astype(np.uint8)
    return picture.repeat(SCALE, 0).repeat(SCALE, 1)


if __name__ == "__main__":
    Image.fromarray(strip(), "RGBA").save(Path(__file__).parent / "static" / "draw.webp", lossless=True, method=6)
