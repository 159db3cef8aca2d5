"""From statements to lessons.

`questions` writes what may be asked, `answers` lets the teacher answer it, `updates` finds what no longer holds,
`unknown` what is to be declined, `chats` and `overview` in which forms it is taught.
"""
