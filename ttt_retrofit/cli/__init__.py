"""What the verbs of the command line do, a function for each.

How they are said, with their options and help, is in `ttt_retrofit_cli` beside this package.
"""
