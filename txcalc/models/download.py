"""``hf:org/name``: the configuration of a model on the Hugging Face hub, and nothing else of it."""

from __future__ import annotations

import logging
import re
import socket
from typing import Final
from urllib.parse import urlsplit
from urllib.request import getproxies

from txcalc.spec.errors import MissingPackage, SpecError

_REPOSITORY: Final = re.compile(r"[\w-][\w.-]*(?:/[\w-][\w.-]*)?(?:@[\w./-]+)?")


def config_path(repository: str) -> str:
    """Download ``config.json`` of ``org/name`` or ``org/name@revision``, or find it in the hub's cache; its path.

    Never code and never weights. Raises ``MissingPackage`` without ``huggingface_hub``, ``SpecError`` for a name
    that is none, a repository that is not there or not open, and a network that is not there.
    """
    place = f"hf:{repository}"
    if not _REPOSITORY.fullmatch(repository) or ".." in repository:
        raise SpecError("write it as hf:org/name or hf:org/name@revision", source=place)
    try:
        from huggingface_hub import constants, errors, hf_hub_download
    except ImportError:
        raise MissingPackage(f"{place} needs huggingface_hub", "huggingface_hub") from None
    name, _, revision = repository.partition("@")
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)  # its warnings would stand between our lines
    try:
        reachable = _is_there(constants.ENDPOINT)
        return str(hf_hub_download(name, "config.json", revision=revision or None, local_files_only=not reachable))
    except Exception as error:  # whatever the network or the hub's client comes up with is one line
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        known = {  # the most special first
            errors.GatedRepoError: "is gated: accept its terms on the hub, then 'hf auth login'",
            errors.RepositoryNotFoundError: "no such model on the hub, or it is private",
            errors.RevisionNotFoundError: f"there is no revision {revision}",
            errors.LocalEntryNotFoundError: "the hub cannot be reached, and it is not in the cache",
            errors.EntryNotFoundError: "has no config.json", Exception: f"cannot be downloaded: {reason}",
        }
        message = next(message for kind, message in known.items() if isinstance(error, kind))
        raise SpecError(message, source=place) from None


def _is_there(endpoint: str) -> bool:
    """Tell whether the hub's name resolves here: without a network, its client would try for half a minute."""
    if getproxies():
        return True
    try:
        socket.getaddrinfo(urlsplit(endpoint).hostname, 443)
    except OSError:
        return False
    return True
