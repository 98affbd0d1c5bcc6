"""Small text classifiers of Hugging Face, with random weights and a vocabulary of a few words."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa

GOOD, BAD = ("good", "fine", "quick"), ("bad", "late", "broken")
LONGEST = 24
_WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *GOOD, *BAD, "a", "flight", "##s", "##ly", "é", "中", "国", "."]


def tokenizer(longest: int = LONGEST) -> Any:
    """Return the tokenizer of BERT with a small vocabulary."""
    from transformers import BertTokenizerFast

    return BertTokenizerFast(vocab={word: place for place, word in enumerate(_WORDS)}, model_max_length=longest)


def model(kind: str, names: dict[int, Any], **options: Any) -> Any:
    """Return a classifier with random weights.

    :param kind: ``bert`` or ``distilbert``
    :param names: the names of the classes, by output
    """
    from transformers import (
        BertConfig,
        BertForSequenceClassification,
        DistilBertConfig,
        DistilBertForSequenceClassification,
    )

    both = {"vocab_size": len(_WORDS), "max_position_embeddings": LONGEST, "id2label": names, **options}
    if kind == "bert":
        sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
        return BertForSequenceClassification(BertConfig(**sizes, **both))
    return DistilBertForSequenceClassification(DistilBertConfig(dim=16, n_layers=1, n_heads=2, hidden_dim=32, **both))


def reviews(rows: int, seed: int = 0) -> pa.Table:
    """Reviews with a label that depends on their words. Some are null, empty, of other languages or very long."""
    random = np.random.default_rng(seed)
    words = np.array(
        [*GOOD, *BAD, "a", "flights", "Lately", "CAFÉ", "中国", "🛫", "[SEP]", "\n", ".", "\u200b"], dtype=object
    )
    texts: list[str | None] = []
    for _ in range(rows):
        length = int(random.choice([0, 3, 8, 20, 60], p=[0.05, 0.35, 0.4, 0.15, 0.05]))
        texts.append(" ".join(words[random.integers(0, len(words), length)]))
    late = [sum(map(text.count, BAD)) - sum(map(text.count, GOOD)) + random.normal() > 0 for text in texts]
    for row in random.integers(0, rows, max(1, rows // 30)):
        texts[row] = None
    label = pa.array(["late" if value else "early" for value in late])
    return pa.table({"flight": np.arange(rows), "review": pa.array(texts, pa.string()), "late": label})
