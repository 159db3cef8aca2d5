"""What a converted model is: wrapping, classes, generation, checkpoints, memories."""
