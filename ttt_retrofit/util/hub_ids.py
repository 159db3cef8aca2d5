"""Names of repositories on the Hub, told apart from local directories."""

import os

from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id


def hub_id(name: str | None) -> str | None:
    """`name` if it can be a repository on the hub, None for a local directory or nothing."""
    if not name or os.path.exists(name):
        return None
    try:
        validate_repo_id(name)
    except HFValidationError:
        return None
    return name
