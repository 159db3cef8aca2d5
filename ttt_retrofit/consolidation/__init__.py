"""From a context to a memory: cut it, list its facts, study them, distil them, verify them.

`pieces` cuts, `facts` lists what was said, `study` has questions written and answered, `planning` says what is taught,
`distill` trains, `verify` asks. `job` runs these stages within a budget, keeps finished work on disk, and can be
paused, cancelled and resumed. A model is known here as something that can forward, generate and carry a memory.
"""
