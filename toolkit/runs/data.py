"""The images that a recipe trains on and validates on."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from fptk.core.classes import check_same
from fptk.core.dataset import FaceParsingDataset
from fptk.core.errors import InputError
from fptk.data import find_duplicates, open_training
from fptk.data.splits import limit
from fptk.recipes import Recipe


def open_data(recipe: Recipe, data: Sequence[Path]) -> tuple[FaceParsingDataset, FaceParsingDataset]:
    """Training and validation set: of the given folders, or synthetic faces where there are none.

    Args:
        recipe: held-out share, its seed, the number of training images, and the synthetic faces' numbers.
        data: data set roots or split folders; empty for synthetic faces.

    Raises:
        InputError: a folder is no data set, or an image stands in both sets, or they have different classes.
    """
    count = recipe.data.train_images
    if not data:
        train, val = synthetic(recipe)
        return limit(train, count), val
    train, val = open_training(list(data), val_fraction=recipe.data.val_fraction, seed=recipe.data.seed)
    check_same(train.classes, train.name, val.classes, val.name)
    twins = find_duplicates(train, val)
    if twins:
        raise InputError(
            f"{len(twins)} validation image(s) are also in the training data, the first is {twins[0][0]} "
            f"(validation: {twins[0][1]}); remove them from one side"
        )
    return limit(train, count), val


def synthetic(recipe: Recipe) -> tuple[FaceParsingDataset, FaceParsingDataset]:
    """The recipe's synthetic faces; the held-out ones have the indices after those of the training faces."""
    from fptk.data.synthetic.faces import SyntheticFaces

    faces = recipe.data.synthetic
    train = SyntheticFaces(faces.train, size=faces.size, seed=faces.seed)
    return train, SyntheticFaces(faces.val, size=faces.size, seed=faces.seed, start=faces.train)
