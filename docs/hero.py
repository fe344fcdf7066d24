"""The picture of the landing page: the plane of a VAE with two latent dimensions, decoded. Run once: `python docs/hero.py`.

Each tile is the decoder's mean at one z, the tiles spread evenly over the mass of the prior. Ink is opacity, colour is
place, so that the same file reads on light and on dark.
"""
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from vae_nbdev import VAE, fit, load_mnist

COLUMNS, ROWS, TRIM, SCALE = 24, 8, 2, 2  # tiles; white border pixels cut from each; pixels per pixel
STOPS = np.array([[59, 91, 219], [134, 62, 201], [214, 51, 108], [232, 89, 12]], float)  # indigo, purple, red, orange


def train():
    "A VAE with a plane to look at."
    torch.manual_seed(3)
    model = VAE(hidden_dim=512, latent_dim=2)
    fit(model, load_mnist("train"), epochs=16, recipe="fast", seed=3, device="cpu", progress=False)
    return model


def draw(model):
    "The decoded plane, (H, W, 4)."
    across, down = (torch.special.ndtri(torch.linspace(0.02, 0.98, n)) for n in (COLUMNS, ROWS))
    z = torch.stack(torch.meshgrid(down, across, indexing="ij"), -1).flip(-1).reshape(-1, 2)  # (tiles, 2)
    with torch.no_grad(): tiles = model.decode(z).reshape(-1, 1, 28, 28)[..., TRIM:-TRIM, TRIM:-TRIM]
    tiles = torch.nn.functional.interpolate(tiles, scale_factor=SCALE, mode="bicubic", align_corners=False).clamp(0, 1)
    side = tiles.shape[-1]
    ink = tiles.reshape(ROWS, COLUMNS, side, side).permute(0, 2, 1, 3).reshape(ROWS * side, COLUMNS * side).numpy()
    place = np.linspace(0, 0.85, ink.shape[1])[None] + np.linspace(0, 0.15, ink.shape[0])[:, None]  # (H, W) in [0, 1]
    colour = np.stack([np.interp(place, np.linspace(0, 1, len(STOPS)), STOPS[:, c]) for c in range(3)], -1)
    return np.dstack([colour, 255 * ink ** 1.25]).round().astype(np.uint8)


if __name__ == "__main__":
    Image.fromarray(draw(train()), "RGBA").save(Path(__file__).parent / "static" / "hero.webp", quality=80, method=6)
