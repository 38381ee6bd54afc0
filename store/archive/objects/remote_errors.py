"""Translates the errors of an object store. Their own texts may hold keys and signed URLs."""

from __future__ import annotations

import re
from dataclasses import dataclass

from lineside.store.archive.errors import ArchiveDenied, ArchiveError, ArchiveUnavailable
from lineside.store.archive.objects.paced_proxy import UNREACHED

# The statuses that a client of object_store meets; a text of it has one of the first two forms.
_STATUS = re.compile(r"status(?: code)?:? (\d{3})\b")
_CODE = re.compile(
    r"<Code>([A-Za-z0-9.]{1,80})</Code>|\"(?:code|reason)\": ?\"([A-Za-z0-9]{1,80})\""
)
_CREDENTIAL_SERVERS = ("//169.254.169.254", "//169.254.170.", "//metadata", "sts.amazonaws.com")
_NO_BUCKET = frozenset({"NoSuchBucket", "ContainerNotFound", "ContainerBeingDeleted"})
_EXPIRED = frozenset({"ExpiredToken", "TokenRefreshRequired", "ExpiredTokenException"})
_FULL = frozenset({"QuotaExceeded", "XMinioStorageFull", "EntityTooLarge", "InsufficientStorage"})
_OTHER_REGION = frozenset(
    {"PermanentRedirect", "AuthorizationHeaderMalformed", "TemporaryRedirect"}
)
_CREDENTIALS = (
    "see that its access key, secret and token are right and may list, read, write and delete there"
)
_RETRIED = frozenset({408, 409, 425, 429})
_FULL_STATUS = 507


@dataclass(frozen=True)
class Place:
    """What the messages name: the archive's URL, its bucket, and its endpoint if one is given."""

    url: str
    bucket: str
    endpoint: str

    def __str__(self) -> str:
        at = f" at {self.endpoint}" if self.endpoint else ""
        return f"the archive {self.url}{at}"


def translate(error: BaseException, place: Place) -> ArchiveError:
    """The archive's error for one of the object store's client."""
    text = str(error)
    status, code = status_and_code(text)
    named = " ".join(str(item) for item in (status, code) if item)
    if code in _NO_BUCKET or (status == 404 and not code) or isinstance(error, FileNotFoundError):
        return ArchiveDenied(
            f"{place} does not exist: there is no bucket or container {place.bucket!r} "
            f"({named or 'not found'}); make it, or correct the URL"
        )
    if any(server in text for server in _CREDENTIAL_SERVERS):
        return ArchiveDenied(
            f"no credentials for {place}: give them as options, or in the environment "
            "(AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, GOOGLE_APPLICATION_CREDENTIALS, or "
            "AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_ACCOUNT_KEY)"
        )
    if code in _EXPIRED:
        return ArchiveDenied(
            f"the credentials for {place} have expired ({named}): give it new ones"
        )
    if code in _FULL or status == _FULL_STATUS:
        return ArchiveUnavailable(f"{place} is full ({named}): free some of it, or keep less")
    if code in _OTHER_REGION or "redirect without LOCATION" in text:
        return ArchiveDenied(f"{place} is in another region ({named}): set the option region")
    if status in (401, 403):
        return ArchiveDenied(f"{place} denies access ({named}): {_CREDENTIALS}")
    if status is not None and 400 <= status < 500 and status not in _RETRIED:
        return ArchiveDenied(
            f"{place} refuses the request ({named}): see that its endpoint is that of an object "
            "store, and that the URL names a bucket of it"
        )
    if status is not None and code != UNREACHED:
        return ArchiveUnavailable(f"{place} has trouble ({named}); it is tried again")
    return _without_answer(text, place)


def status_and_code(text: str) -> tuple[int | None, str]:
    """The HTTP status and the store's own error code in a text; None and empty without."""
    status, code = _STATUS.search(text), _CODE.search(text)
    return (
        int(status[1]) if status else None,
        (code[1] or code[2]) if code else "",
    )


def _without_answer(text: str, place: Place) -> ArchiveError:
    if "invalid list response" in text or "Unable to extract metadata" in text:
        return ArchiveDenied(f"{place} answers, and not as an object store: see its endpoint")
    for mark, why in (
        ("dns error", "its host name has no address"),
        ("ConnectionRefused", "the connection was refused"),
        ("InvalidContentType", "it does not speak TLS: see whether its endpoint is http://"),
        ("InvalidCertificate", "its TLS certificate is not trusted"),
        ("kind: Timeout", "it did not answer in time"),
        ("ConnectionReset", "the connection was lost"),
        ("IncompleteMessage", "the connection was lost"),
    ):
        if mark in text:
            return ArchiveUnavailable(f"{place} cannot be reached: {why}")
    return ArchiveUnavailable(f"{place} cannot be reached")
