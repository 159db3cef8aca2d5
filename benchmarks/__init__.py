"""What is measured on real models and real texts, and the demo.

`models` and `texts` fetch, `measure` measures, `plots` draws. Nothing in `ttt_retrofit` imports this package.
"""
