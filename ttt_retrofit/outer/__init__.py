"""The outer loop: meta-learns where fast weights start and how they step.

`TTTTrainer` is a thin `transformers.Trainer`. `gradients` holds the mathematics, `data` the sequences that are read.
"""
