"""The outer loop: where fast weights start and how they step, learned from what a read loses.

`TTTTrainer` is a thin `transformers.Trainer`; `gradients` holds the mathematics, `data` the sequences it reads.
"""
