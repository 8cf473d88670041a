"""Each check against servers that are well, and against servers that are not."""
