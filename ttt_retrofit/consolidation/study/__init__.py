"""From what was said to questions and answers.

`pieces` cuts a context, `statements` are what is studied, `questions` writes what may be asked, `ranking` keeps the
best, `answers` lets the teacher answer, `unknown` and `near_misses` find what is to be declined, `chats` and
`overview` in which forms it is taught.
"""
