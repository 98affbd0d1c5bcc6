"""The stage ``score``, which scores datasets with the champion."""
