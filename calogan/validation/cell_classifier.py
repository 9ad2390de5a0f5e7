"""A small network that separates candidate and reference by the energies of all cells.

The low-level classifier of the CaloChallenge (arXiv 2410.21611) is trained on 100,000 showers. From the few thousand of
a report, a network on cells alone does not learn to sum over a layer, and misses differences that boosted trees on
observables detect. So this network gets the cells twice: as an image, with the layers of the detector as channels, and
through fixed projections of each layer. TensorFlow is imported by the first training, not by this module.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from calogan.errors import EventsError
from calogan.events import Events
from calogan.geometry import CLIC
from calogan.validation.classifiers import (
    FOLDS,
    Rows,
    Scorer,
    Separability,
    energy_folds,
    join_folds,
    repeated_trainings,
)
from calogan.validation.observables import Floats

CELL_SHOWERS = 2_000  # of each sample
EPOCHS = 10
_BATCH = 64
_RATE = 1e-3
_PER_EP = np.float32(1e5)  # the unit of the cells is Ep / 100,000
_IMAGE_SCALE = np.float32(0.25)  # scales the logarithm of the hottest cells to about 2
_LARGEST = 5  # limit of the projections, in standard deviations
_PREDICT_BATCH = 500

Floats32 = NDArray[np.float32]


def auc_low_level(
    reference: Events, candidate: Events, *, trainings: int = FOLDS, epochs: int = EPOCHS, seed: int = 0
) -> Separability:
    """Train a network several times to separate candidate and reference by their cells.

    The image is ln(1 + 1e5 cell / Ep), with cells below the read-out threshold set to 0. The projections of each layer
    are sums over its cells of three maps (the image, the hits, the cell's share of the layer), each times a function of
    x and y (powers up to the second, two cores, |x|, |y|, r^4), and the logarithm of the layer's energy over Ep. ln Ep
    is an input too. Each training keeps the epoch with the lowest loss on the selection showers, which also calibrate
    its scores.

    Args:
        reference: Geant4 showers; at most `CELL_SHOWERS` of each sample are used, selected at random.
        candidate: showers of a generator with the same spectrum of Ep.
        trainings: number of trainings; with five of them, every shower is tested once.
        epochs: epochs of each training.
        seed: seed of the selection, the parts, the weights and the order of showers. Each training also sets the global
            seed of Keras.

    Raises:
        EventsError: there are too few showers, or the Ep of one is not above 0.
    """
    rng = np.random.default_rng(seed)
    samples = [sample[np.sort(rng.permutation(len(sample))[:CELL_SHOWERS])] for sample in (reference, candidate)]
    label, fold = join_folds(*energy_folds(samples[0].energy, samples[1].energy, seed=seed))
    energy = np.concatenate([sample.energy for sample in samples])
    if not (energy > 0).all():
        raise EventsError(
            f"a shower has Ep {energy.min():g} GeV; every shower needs the energy of its primary particle"
        )
    image = np.concatenate([_image(sample) for sample in samples])
    numbers = _standardise(np.column_stack([np.log(energy), _projections(image)]))
    image *= _IMAGE_SCALE

    def train(rows: Rows, selection: Rows, seed: int) -> Scorer:
        network = _train((image, numbers, label), rows, selection, epochs, seed)

        def score(which: Rows) -> Floats:
            blocks = np.array_split(which, -(-len(which) // _PREDICT_BATCH))
            logits = [np.asarray(network([image[b], numbers[b]], training=False))[:, 0] for b in blocks]
            probability: Floats = expit(np.concatenate(logits).astype(np.float64))
            return probability

        return score

    return repeated_trainings(train, label, fold, trainings=trainings, seed=seed)


def _image(sample: Events) -> Floats32:
    cells = np.where(sample.showers < CLIC.threshold_gev, np.float32(0), sample.showers)
    cells *= _PER_EP / sample.energy[:, None, None, None]
    image: Floats32 = np.log1p(cells, out=cells)
    return image


def _projections(image: Floats32) -> Floats32:
    """Sums of three maps of each layer times functions of x and y, and the energy of each layer; shape (n, 850)."""
    x, y = (np.indices(CLIC.shape[:2]) - np.reshape(CLIC.entry_cell, (2, 1, 1))) / CLIC.entry_cell[0]
    r2 = x**2 + y**2
    cores = [np.exp(-72 * r2), np.exp(-18 * r2)]  # 1 and 2 cells wide
    functions = np.stack([x**0, x, y, x**2, y**2, x * y, r2**2, *cores, abs(x), abs(y)]).astype(np.float32)
    blocks = []
    for start in range(0, len(image), _PREDICT_BATCH):
        block = image[start : start + _PREDICT_BATCH]
        cells = np.expm1(block)
        layers = cells.sum(axis=(1, 2), keepdims=True)
        maps = (block, (block > 0).astype(np.float32), cells / (layers + 1))
        sums = [np.tensordot(each, functions, axes=((1, 2), (1, 2))) for each in maps]
        blocks.append(np.concatenate([*(s.reshape(len(block), -1) for s in sums), np.log1p(layers[:, 0, 0])], axis=1))
    return np.concatenate(blocks)


def _standardise(numbers: Floats32) -> Floats32:
    spread = numbers.std(axis=0)
    difference = numbers - numbers.mean(axis=0)
    pulls: Floats32 = np.clip(difference / np.where(spread > 0, spread, 1), -_LARGEST, _LARGEST).astype(np.float32)
    return pulls


def _train(data: tuple[Floats32, Floats32, Rows], rows: Rows, selection: Rows, epochs: int, seed: int) -> Any:
    """Train a network on some rows of (image, numbers, label); returns the epoch that does best on the selection."""
    import keras  # noqa: PLC0415

    image, numbers, label = data
    keras.utils.set_random_seed(seed)
    network = _network(image.shape[1:], numbers.shape[1:])
    network.compile(keras.optimizers.Adam(_RATE), keras.losses.BinaryCrossentropy(from_logits=True))
    weight = len(rows) / (2 * np.maximum(np.bincount(label[rows], minlength=2), 1))
    network.fit(
        [image[rows], numbers[rows]],
        label[rows],
        sample_weight=weight[label[rows]],
        validation_data=([image[selection], numbers[selection]], label[selection]),
        validation_batch_size=_PREDICT_BATCH,
        batch_size=_BATCH,
        epochs=epochs,
        callbacks=[keras.callbacks.EarlyStopping(patience=epochs, restore_best_weights=True)],
        verbose=0,
    )
    return network


def _network(image_shape: tuple[int, ...], numbers_shape: tuple[int, ...]) -> Any:
    """Three convolutions over x and y, joined by the projections, then two dense layers."""
    import keras  # noqa: PLC0415
    from keras import layers  # noqa: PLC0415

    image, numbers = keras.Input(image_shape), keras.Input(numbers_shape)
    x = image
    for _ in range(3):
        x = layers.LeakyReLU(0.1)(layers.Conv2D(16, 3, strides=2, padding="same")(x))
    x = layers.Concatenate()([layers.Flatten()(x), numbers])
    for _ in range(2):
        x = layers.LeakyReLU(0.1)(layers.Dense(64)(layers.Dropout(0.3)(x)))
    return keras.Model([image, numbers], layers.Dense(1)(x))
