"""Sessions of custom containers in Azure: every path but those below `.management` is the container's."""

from __future__ import annotations

from .scripted import Answer, Azure, answered, pool_of, refused

SESSION = {
    "identifier": "abcd",
    "createdAt": "2026-01-05T22:18:41.752Z",
    "lastAccessedAt": "2026-01-05T22:18:41.752Z",
    "expireAt": "2026-01-05T22:23:41.752Z",
}


def test_sessions_are_managed_below_the_pools_own_path() -> None:
    stopped = Answer(200, b"Session abcd in session pool p stopped.", {"Content-Type": "text/plain"})
    azure = Azure(answered(SESSION), answered({"sessions": [SESSION]}), stopped)
    with pool_of(azure, container_type="CustomContainer") as pool:
        info = pool.session("abcd").info()
        assert info is not None
        assert pool.sessions() == [info]
        pool.session("abcd").delete()
    assert azure.calls == [
        "GET .management/getSession",
        "GET .management/listSessions",
        "POST .management/stopSession",
    ]
    assert [request.params.get("identifier") for request in azure.requests] == ["abcd", None, "abcd"]


def test_a_missing_session_is_none() -> None:
    azure = Azure(refused(400, "SessionWithIdentifierNotFound"))
    with pool_of(azure, container_type="CustomContainer") as pool:
        assert pool.session("abcd").info() is None
        pool.session("abcd").delete()
