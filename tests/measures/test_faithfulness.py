"""The picture of a validation: pixels as they were given and drawn."""

import numpy as np
import torch

from rcdm.data import images as im
from rcdm.measures.faithfulness import comparison_grid


def test_a_validation_picture_holds_every_pixel(pipe):
    images = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1
    picture = np.asarray(comparison_grid(pipe, images))
    columns = [images]
    for name in pipe.sources.names:
        columns.append(pipe.draw(pipe.encode(images, name), name, seeds=range(2)))
    assert picture.shape == (2 + 2 * 98, 2 + len(columns) * 98, 3)  # cells of 96, 2 apart
    for i, column in enumerate(columns):
        for row, image in enumerate(im.to_pil(column)):
            cell = picture[2 + 98 * row :, 2 + 98 * i :][:96, :96]
            assert np.array_equal(cell, np.asarray(image).repeat(6, 0).repeat(6, 1))
