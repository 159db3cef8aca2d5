"""Reading: one call is checked, aligned, read chunk by chunk and collected; what it leaves is a cache."""
