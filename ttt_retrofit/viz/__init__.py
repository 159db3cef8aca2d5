"""Pictures of what a model learned while reading, and of what a memory changed in it.

`collect` asks a model for data, `figures` and `text` draw it, `pages` writes files. Figures need matplotlib.
"""
