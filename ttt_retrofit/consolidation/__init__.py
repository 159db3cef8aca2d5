"""From a context to a memory: facts, study, training, verification.

`facts` lists what was said, `study` has questions written and answered, `train` teaches the answers, `verify` asks.
`job` runs these stages within a budget, keeps finished work on disk, and can be paused, cancelled and resumed. A model
is known here as something that can forward, generate and carry a memory.
"""
