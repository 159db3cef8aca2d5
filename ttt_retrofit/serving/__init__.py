"""A server with OpenAI's protocol in which every user has a memory, and a page to talk to one.

One thread answers (`answering`). Another makes memories while their users are idle (`keeper`).
"""
