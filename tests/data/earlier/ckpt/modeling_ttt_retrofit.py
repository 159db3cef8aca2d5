"""Loads this checkpoint through the installed package: pip install ttt-retrofit"""

from ttt_retrofit import TTTModelConfig  # noqa: F401
