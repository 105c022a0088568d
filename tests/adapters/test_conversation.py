"""One conversation, one session: what becomes of a framework's names for conversations."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from greenroom import InvalidRequest
from greenroom.adapters.conversation import conversation_identifier
from greenroom.sessions.rules import check_identifier


@pytest.mark.parametrize("plain", ["1", "thread-1", "user_7.chat-2", "0192f0c1-2b6e-7c1d-9d55-0f5a1c3e8b7a"])
def test_a_plain_name_stays_readable(plain: str) -> None:
    assert conversation_identifier("langchain", plain) == f"langchain.{plain}"


@pytest.mark.parametrize("name", ["a&x=1", "a/b", "a b", "Grüße", "\ud800", "x" * 65, "\n", "Thread-1", "~"])
def test_any_other_name_becomes_its_digest(name: str) -> None:
    identifier = conversation_identifier("langchain", name)
    scope, digest = identifier.split("~")
    assert scope == "langchain"
    assert len(digest) == 64
    assert int(digest, 16)


def test_it_is_the_same_in_every_process() -> None:
    assert conversation_identifier("langchain", "foo bar") == (
        "langchain~fbc1a9f858ea9e177916964bd88c3d37b91a1e84412765e29950777f265c4b75"
    )


names = st.one_of(
    st.text(st.characters(), min_size=1),
    st.text("aA.~-_ 0", min_size=1, max_size=4),
    st.text("0123456789abcdef", min_size=64, max_size=64),
    st.sampled_from(["langchain", "."]),
)
scopes = st.sampled_from(["lang", "langchain", "lang-chain"])


@given(scopes, names)
def test_it_is_always_valid_and_needs_no_encoding(scope: str, name: str) -> None:
    identifier = check_identifier(conversation_identifier(scope, name))
    assert set(identifier) <= set("abcdefghijklmnopqrstuvwxyz0123456789._-~")


@given(scopes, names, scopes, names)
def test_two_conversations_never_share_an_identifier(scope: str, name: str, other_scope: str, other: str) -> None:
    same = conversation_identifier(scope, name) == conversation_identifier(other_scope, other)
    assert same == ((scope, name) == (other_scope, other))


@pytest.mark.parametrize(("name", "other"), [("Ann", "ann"), ("THREAD-1", "Thread-1")])
def test_names_that_differ_only_in_case_become_different_names(name: str, other: str) -> None:
    assert conversation_identifier("langchain", name).lower() != conversation_identifier("langchain", other).lower()


def test_an_empty_name_is_refused_because_it_could_be_anybodys() -> None:
    with pytest.raises(InvalidRequest, match="empty"):
        conversation_identifier("langchain", "")


@pytest.mark.parametrize("scope", ["", "lc", "Lang", "lang.chain", "lang~chain", "x" * 33, "1ang"])
def test_an_ambiguous_scope_is_refused(scope: str) -> None:
    with pytest.raises(InvalidRequest, match="scope"):
        conversation_identifier(scope, "thread-1")
