"""What the field would put beside a memory: eviction of keys and values, windows, sparse attention, on any checkpoint.

Each file is one idea, readable rather than fast, over transformers' own caches and attention interface. `watch` is how
they see queries and keys; `evict` is what all methods that drop keys and values share. One row, B = 1, throughout.
"""
