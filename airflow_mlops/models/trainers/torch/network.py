"""The built-in network for tables."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn


class TabularNetwork(nn.Module):
    """A network of fully connected layers on standardised numeric features and embedded text features.

    :param numbers: number of columns of the numeric input
    :param texts: number of category codes of each text feature, including code 0 for unknown texts
    :param outputs: number of columns of the output: a logit for each class, or one value (regression)
    :param hidden: widths of the hidden layers
    :param dropout: fraction of activations dropped during training
    """

    def __init__(
        self, numbers: int, texts: Sequence[int], outputs: int, hidden: Sequence[int] = (128, 64), dropout: float = 0.1
    ) -> None:
        super().__init__()
        # The width of an embedding follows a common rule of thumb.
        widths = [min(50, round(1.6 * count**0.56)) for count in texts]
        self.embeddings = nn.ModuleList(nn.Embedding(count, width) for count, width in zip(texts, widths, strict=True))
        layers: list[nn.Module] = []
        width = numbers + sum(widths)
        for size in hidden:
            layers += [nn.Linear(width, size), nn.ReLU(), nn.Dropout(dropout)]
            width = size
        self.layers = nn.Sequential(*layers, nn.Linear(width, outputs))

    def forward(self, numbers: torch.Tensor, texts: torch.Tensor) -> torch.Tensor:
        """Compute logits or values.

        :param numbers: numeric input, float32, shape (n, ``numbers``)
        :param texts: category codes, int64, shape (n, number of text features)
        :return: logits or values, float32, shape (n, ``outputs``)
        """
        embedded = [embedding(texts[:, place]) for place, embedding in enumerate(self.embeddings)]
        found: torch.Tensor = self.layers(torch.cat([numbers, *embedded], dim=1))
        return found
