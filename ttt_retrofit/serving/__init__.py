"""A server with OpenAI's protocol in which every user has a memory, a page to talk to one, and facts as tools.

One thread generates the answers (`scheduler`). Another consolidates the messages of idle users (`idle`).
"""
