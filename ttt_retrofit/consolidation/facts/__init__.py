"""From what was said to facts.

`turns` reads messages, `writers` write, `extraction` asks them, `checks` and `dates` see to it that nothing is kept
that was not said, `listing` is the whole of it.
"""
