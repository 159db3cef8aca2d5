"""What all benchmarks share; none of it knows what is measured.

`options` parses arguments, `loading` loads models, `store` keeps rows in `results/` and goes on with them, `tables`
shows them, `machine` says where they were measured, `costs` takes time and bytes, `processes` runs rows in processes of
their own. Of systems that answer questions: `prompts` asks a model, `recollect` in a fresh process, `retrieval` is
BM25, `rows` is what a bench holds and the rows that every bench has.
"""
