"""The stage ``promote``, which makes the winner of an evaluation the champion."""
