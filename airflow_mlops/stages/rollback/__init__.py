"""The stage ``rollback``, which makes an earlier champion the champion again."""
