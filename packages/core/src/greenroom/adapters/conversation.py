"""The session identifier of a conversation, derived from the framework's name for it."""

from __future__ import annotations

import hashlib
import re

from greenroom.errors import InvalidRequest
from greenroom.untrusted import brief

_SCOPE = re.compile(r"[a-z][a-z0-9-]{2,31}")
# Lower case only: a store can treat two names that differ only in case as the same.
_PLAIN = re.compile(r"[a-z0-9._-]{1,64}")


def conversation_identifier(framework_scope: str, conversation: str) -> str:
    """Return the session identifier that belongs to a conversation.

    Two conversations never share an identifier, nor do two scopes. No state is needed: every process derives the
    same identifier. It follows Azure's rule of 4 to 128 characters, and none of them needs encoding in a URL. A plain
    name stays readable, `langchain.thread-1`; any other becomes its SHA-256, `langchain~2c26b46b…`.

    Args:
        framework_scope: the framework that names the conversation, such as `langchain`: 3 to 32 lower-case
            letters, digits and hyphens.
        conversation: the name; it must not be empty, as an empty one is usually a forgotten value.

    Raises:
        InvalidRequest: the scope or the conversation breaks its rule.
    """
    if not _SCOPE.fullmatch(framework_scope):
        raise InvalidRequest(
            "The scope must be 3 to 32 lower-case letters, digits and hyphens that begin with a letter, "
            f"not {brief(framework_scope)}."
        )
    if not conversation:
        raise InvalidRequest("The conversation must have a name, not an empty one: its session could be anybody's.")
    if _PLAIN.fullmatch(conversation):
        return f"{framework_scope}.{conversation}"
    digest = hashlib.sha256(conversation.encode("utf-8", "surrogatepass")).hexdigest()
    return f"{framework_scope}~{digest}"
