"""From a context to a memory: cut it, study it, distil it, verify it.

`pieces` cuts, `study` has the model write questions and answers, `distill` trains, `verify` asks. `job` runs these
stages within a budget, keeps finished work on disk, and can be paused, cancelled and resumed. A model is known here as
something that can forward, generate and carry a memory.
"""
