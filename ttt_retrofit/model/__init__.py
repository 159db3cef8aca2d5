"""The converted model: wrapping, classes, forward and generation, checkpoints, its memories."""
