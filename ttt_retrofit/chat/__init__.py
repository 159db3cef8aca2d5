"""`ChatSession`: a conversation that becomes a memory while it is idle."""
