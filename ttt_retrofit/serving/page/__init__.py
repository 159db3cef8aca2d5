"""A web page for one user: several chats, the memory that they share, and its facts. It loads nothing from elsewhere.

`Owner` is the user: chats and session, changed together. `PageController` answers, and consolidates in idle time. The
routes of its API are in `routes`, and what the browser runs is in `assets`.
"""

from .controller import PageController
from .launching import launch

__all__ = ["PageController", "launch"]
