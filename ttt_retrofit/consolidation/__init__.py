"""From context to memory: `pieces` cuts it, `study` has the model write questions, `distill` teaches, `verify` asks.

`job` runs these stages within a budget, keeps what was done on disk, and can be paused, cancelled and resumed. A model
is known here only as something that can forward, generate and carry a memory.
"""
