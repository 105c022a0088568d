"""One conversation, one session: the identifier of a session from a framework's name for a conversation."""

from __future__ import annotations

import hashlib
import re

from greenroom.errors import InvalidRequest

_SCOPE = re.compile(r"[a-z][a-z0-9-]{2,31}")
# Lower case only: two names that differ in case alone may be one name to whoever stores them.
_PLAIN = re.compile(r"[a-z0-9._-]{1,64}")


def conversation_identifier(framework_scope: str, conversation: str) -> str:
    """Return the session identifier that belongs to a conversation.

    Two conversations never share one, nor do two scopes. It needs no state: every process derives the same.
    It is valid everywhere: 4 to 128 characters by Azure's rule, none of which has to be encoded in a URL. A
    plain name stays readable, `langchain.thread-1`; any other becomes its SHA-256, `langchain~2c26b46b…`.

    Args:
        framework_scope: who names the conversation, such as `langchain`: 3 to 32 lower-case letters, digits
            and hyphens.
        conversation: the name, any text but the empty one, which is more often a forgotten value than a name.

    Raises:
        InvalidRequest: the scope or the conversation breaks its rule.
    """
    if not _SCOPE.fullmatch(framework_scope):
        raise InvalidRequest(
            f"The scope {framework_scope!r:.200} is not valid: "
            "it takes 3 to 32 characters, lower-case letters, digits and hyphens."
        )
    if not conversation:
        raise InvalidRequest("The conversation '' is not valid: it is empty, so it could be anybody's.")
    if _PLAIN.fullmatch(conversation):
        return f"{framework_scope}.{conversation}"
    digest = hashlib.sha256(conversation.encode("utf-8", "surrogatepass")).hexdigest()
    return f"{framework_scope}~{digest}"
