"""The stage ``score``, which predicts the rows of a dataset with the champion, or with another version."""
