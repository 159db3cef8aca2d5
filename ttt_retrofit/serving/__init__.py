"""A server with OpenAI's protocol in which every user has a memory, and a page to talk to one.

One thread generates the answers (`scheduler`). Another consolidates the messages of idle users (`idle`).
"""
