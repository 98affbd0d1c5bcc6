"""The built-in network for tables."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn


class TabularNetwork(nn.Module):
    """Fully connected layers on standardised numbers and embedded texts.

    :param numbers: width of the numeric input
    :param texts: number of indices of each text input, including the one for unknown texts
    :param outputs: width of the output: one logit per class, or one value
    :param hidden: widths of the hidden layers
    :param dropout: fraction of activations dropped during training
    """

    def __init__(
        self, numbers: int, texts: Sequence[int], outputs: int, hidden: Sequence[int] = (128, 64), dropout: float = 0.1
    ) -> None:
        super().__init__()
        # A common rule of thumb for the width of an embedding.
        widths = [min(50, round(1.6 * count**0.56)) for count in texts]
        self.embeddings = nn.ModuleList(nn.Embedding(count, width) for count, width in zip(texts, widths, strict=True))
        layers: list[nn.Module] = []
        width = numbers + sum(widths)
        for size in hidden:
            layers += [nn.Linear(width, size), nn.ReLU(), nn.Dropout(dropout)]
            width = size
        self.layers = nn.Sequential(*layers, nn.Linear(width, outputs))

    def forward(self, numbers: torch.Tensor, texts: torch.Tensor) -> torch.Tensor:
        """:param numbers: float32, shape (n, numbers)
        :param texts: int64, shape (n, number of text inputs)
        :return: shape (n, outputs)
        """
        embedded = [embedding(texts[:, place]) for place, embedding in enumerate(self.embeddings)]
        found: torch.Tensor = self.layers(torch.cat([numbers, *embedded], dim=1))
        return found
