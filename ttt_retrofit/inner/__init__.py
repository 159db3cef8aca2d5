"""The inner loop: where fast weights sit, what they are, and how a chunk steps them."""
