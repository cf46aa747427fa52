"""What others say, without this process's secrets: a server, or a proxy before it, may repeat what it was sent."""

from __future__ import annotations

import os
import re

SECRET_NAME = re.compile(r"(KEY|TOKEN|SECRET|PASSWORD|PASSWD|CREDENTIALS?|AUTH_STRING)$")
SHORTEST = 8  # characters; what is shorter is a word that others say as well


def masked(text: str) -> str:
    """`text` with *** for every value of an environment variable that is named like a secret."""
    for name, value in os.environ.items():
        if SECRET_NAME.search(name) and len(value.strip()) >= SHORTEST:
            text = text.replace(value.strip(), "***")
    return text
