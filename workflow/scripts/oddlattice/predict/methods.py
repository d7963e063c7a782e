"""What a VAE has to beat: the mean cell as a template, and principal components of the image's own patches."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.linalg import eigh
from scipy.ndimage import gaussian_filter

from oddlattice.crystal import CELL_PX, PX_PER_CELL
from oddlattice.lattice.columns import as_cells, mean_cell, repeated
from oddlattice.model.patches import padded, patches_of
from oddlattice.numerics.arrays import Float, Mask

#: The prediction of a model's network, of tiles and mask.
Network = Callable[[Float, Mask], Float]
Predict = Callable[[Float, Mask, Network], Float]

COMPONENTS = 20
COLUMN_PX, QUIET_PART = 2.3, 0.6  # width of a column; part of the patches that components are taken from
SHOWN_PART = 0.2  # of the largest scatter of a pixel
BLOCK_CELLS, CHUNK = 8, 1024
SAMPLE = 2048  # patches from which the components are computed, evenly taken


def predict_template(tiles: Float, mask: Mask, _network: Network | None = None) -> Float:
    """The image's median cell, repeated; shape of `tiles` (U n_u, V n_v)."""
    return repeated(mean_cell(tiles, mask), mask)


def quiet_patches(patches: Float) -> npt.NDArray[np.bool_]:
    """Which patches (n, 40, 40) hold nothing that stands out of the median patch over the width of a column.

    Pixels that hardly scatter are left out: most patches do not show them, as those of crops, and the few that do would
    be taken for odd.
    """
    off = np.abs(gaussian_filter(patches - np.median(patches, axis=0), (0.0, COLUMN_PX, COLUMN_PX)))
    spread = np.median(off, axis=0)
    shown = spread > SHOWN_PART * spread.max()
    height = (off[:, shown] / spread[shown]).max(axis=1, initial=0.0)
    return np.asarray(height <= np.quantile(height, QUIET_PART))


def principal_components(flat: Float, components: int) -> tuple[Float, Float]:
    """Mean (d,) and principal components (d, components) of vectors (n, d), the largest last."""
    mean = flat.mean(axis=0)
    off = flat - mean
    few = len(off) < off.shape[1]  # then the same components come from the smaller matrix
    products = off @ off.T if few else off.T @ off
    size = len(products)
    values, vectors = eigh(products, subset_by_index=[max(size - components, 0), size - 1])
    if few:
        vectors = off.T @ (vectors / np.sqrt(np.maximum(values, 1e-9 * values[-1])))
    return mean, vectors.astype(np.float32)


def quiet_components(patches: Float, components: int) -> tuple[Float, Float]:
    """`principal_components` of the quiet ones of patches (n, 40, 40): (1600,) and (1600, components)."""
    return principal_components(patches[quiet_patches(patches)].reshape(-1, 4 * CELL_PX**2), components)


def predict_pca(tiles: Float, mask: Mask, _network: Network | None = None, components: int = COMPONENTS) -> Float:
    """Central cells of the patches rebuilt from the image's own principal components; shape of `tiles`.

    The components are those of quiet patches, for an odd column would otherwise become one of them, and of other cells
    than those that are rebuilt (a checkerboard of blocks), for components fit the noise of what they are made from.
    """
    rimmed = padded(tiles)
    inside = np.argwhere(mask)
    fold = (inside // BLOCK_CELLS).sum(axis=1) % 2
    half = CELL_PX // 2
    out = np.zeros_like(tiles)
    cells_of = as_cells(out, PX_PER_CELL)
    for other in (0, 1):
        from_cells = inside[fold == other] if (fold == other).sum() >= 2 * components else inside
        mean, basis = quiet_components(patches_of(rimmed, from_cells[:: max(1, len(from_cells) // SAMPLE)]), components)
        mine = inside[fold != other]
        for start in range(0, len(mine), CHUNK):
            cells = mine[start : start + CHUNK]
            flat = patches_of(rimmed, cells).reshape(len(cells), -1)
            rebuilt = (mean + (flat - mean) @ basis @ basis.T).reshape(-1, 2 * CELL_PX, 2 * CELL_PX)
            cells_of[cells[:, 0], cells[:, 1]] = rebuilt[:, half : half + CELL_PX, half : half + CELL_PX]
    return out


def predict_by_network(tiles: Float, mask: Mask, network: Network) -> Float:
    """The network's prediction; shape of `tiles`."""
    return network(tiles, mask)


def begin_any_crystal() -> Predict:
    """The mean cell, bent by the network of every crystal where that pays (see `predict.conditional`)."""
    from oddlattice.predict.conditional import AnyCrystal  # here, not above: pages name the methods without PyTorch

    return AnyCrystal()


TEMPLATE_WORDS = "the image's own median unit cell as template of the bulk"
VAE_WORDS = "a convolutional variational autoencoder {vae} trained on bulk"
ANY_CRYSTAL_WORDS = (
    "the image's own median unit cell, bent where conditions vary by a convolutional variational autoencoder {vae} "
    "trained on simulated cells of any crystal"
)


@dataclass(frozen=True)
class Method:
    """A way to predict bulk.

    Attributes
    ----------
    begin : callable
        Gives what predicts one image: from tiles (U n_u, V n_v), mask (U, V) and the model's network.
    words : str
        What a paper says of it; ``{vae}`` is replaced by a citation.
    colour : str
        In the charts of the benchmark.
    takes_residual : bool
        Whether the image's own mean residual is still to be taken up.
    any_cell : bool
        Whether cells may have other sides than 20 x 20 px.
    """

    begin: Callable[[], Predict]
    words: str
    colour: str
    takes_residual: bool = True
    any_cell: bool = False


#: Every method by its name in the config: a further baseline is its function above and its line here.
METHODS = {
    "vae": Method(lambda: predict_by_network, VAE_WORDS, "#1f78c8"),
    "pca": Method(lambda: predict_pca, "principal components of the image's own bulk cells", "#d07a1c"),
    "template": Method(lambda: predict_template, TEMPLATE_WORDS, "#5d8a2a", any_cell=True),
    "any_crystal": Method(begin_any_crystal, ANY_CRYSTAL_WORDS, "#7f6bc4", takes_residual=False, any_cell=True),
}

#: The method of images that are on no model's crystal.
WITHOUT_MODEL = "any_crystal"
