"""What the pages show, and that nothing which others wrote becomes markup."""

from __future__ import annotations

import asyncio
import functools
import sqlite3
from datetime import UTC, date, datetime
from html.parser import HTMLParser
from pathlib import Path
from typing import Any, cast
from urllib.parse import parse_qsl, unquote, urlsplit

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.effort import examples

import greenroom
from greenroom.azure.codecs.problems import Problem
from greenroom.backend import Backend
from greenroom.errors import EngineUnavailable
from greenroom.models import ContainerType, PoolStatus, PoolUsage, SessionInfo, SessionUsage, UsageSource
from greenroom.pricing import Prices
from greenroom.server.registry import PoolRegistry
from greenroom.server.ui.access import Access, Viewer
from greenroom.server.ui.history import History
from greenroom.server.ui.pages import Pages
from greenroom.server.ui.rendering import HEADERS
from greenroom.server.ui.texts import NOTHING
from greenroom.telemetry import (
    EndCause,
    EngineLost,
    ExecutionEnded,
    SandboxEnded,
    SandboxRemoved,
    SandboxStarted,
    SessionAllocated,
    TelemetryEvent,
    Work,
)

from .watched import FORM, MANAGER, USER, Watched, guarded, watched

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
TEMPLATES = Path(greenroom.__file__).parent / "server/ui/templates"


class Told:
    """A pool that tells what a test wants."""

    container_type = ContainerType.PYTHON_LTS
    file_limit = 1

    def __init__(self, *identifiers: str, status: PoolStatus | None = None) -> None:
        self.identifiers = list(identifiers)
        self.state = status or PoolStatus(limit=10, idle=len(identifiers))
        self.deleted: list[str] = []

    async def sessions(self) -> list[SessionInfo]:
        return [SessionInfo(each, NOW, NOW) for each in self.identifiers]

    async def status(self) -> PoolStatus:
        return self.state

    async def usage(self, identifier: str) -> SessionUsage | None:
        return SessionUsage(executions=3, cpu=1.5, peak_memory=1 << 20)

    async def pool_usage(self) -> PoolUsage:
        return PoolUsage(sessions=1234, cpu=7200.0, memory_time=float(1 << 31), peak_memory=1 << 30)

    async def delete(self, identifier: str) -> None:
        self.deleted.append(identifier)
        self.identifiers.remove(identifier)

    async def close(self) -> None:
        pass


class Silent(Told):
    """A pool that does not respond."""

    async def sessions(self) -> list[SessionInfo]:
        raise EngineUnavailable("The pool does not respond.")

    async def status(self) -> PoolStatus:
        raise EngineUnavailable("The pool does not respond.")

    async def pool_usage(self) -> PoolUsage:
        raise EngineUnavailable("The pool does not respond.")


def backend(told: Told) -> Backend:
    return cast("Backend", told)


class Read(HTMLParser):
    """The elements of a page, their attributes, and its text."""

    def __init__(self, page: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)

    def handle_data(self, data: str) -> None:
        self.text.append(data)

    @property
    def shape(self) -> list[tuple[str, frozenset[str]]]:
        """The elements and the names of their attributes: what markup in a text would change."""
        return [(tag, frozenset(attributes)) for tag, attributes in self.tags]


async def test_the_pools_are_shown_with_their_saturation() -> None:
    status = PoolStatus(limit=10, executing=3, idle=4, ready=2, starting=1, waiting=5, wait_median=0.25)
    async with watched(backends={"ci": backend(Told(status=status)), "gone": backend(Silent())}) as server:
        text = " ".join(" ".join(Read((await server.open()).text).text).split())
        assert f"ci PythonLTS {NOTHING} 7 of 10 120% 3 2 1 5 250.0 ms 0 B" in text
        assert f"gone PythonLTS {NOTHING} does not respond" in text


async def test_pools_that_do_not_serve_are_shown_with_the_reason() -> None:
    registry = PoolRegistry()
    access = Access(None, None)
    failed = ("team/<ci>", "Failed", "The engine is not there.")
    pages = Pages(registry, access, History(registry), not_serving=lambda: [failed])
    viewer = await access.viewer(None)
    assert viewer is not None
    text = " ".join(Read(bytes((await pages.overview(viewer, {})).body).decode()).text)
    assert "team/<ci> : Failed The engine is not there." in " ".join(text.split())


async def test_saturation_is_drawn_from_samples() -> None:
    pool = Told(status=PoolStatus(limit=10, executing=3, waiting=2))
    async with watched(backends={"ci": backend(pool), "gone": backend(Silent())}) as server:
        assert "No samples yet" in (await server.open("/ui/pool?pool=ci")).text
        await server.history.sample()
        pool.state = PoolStatus(limit=10, executing=9)
        await server.history.sample()
        for page in ("/ui", "/ui/pool?pool=ci", "/ui/pool?pool=ci&span=day"):
            shown = Read((await server.open(page)).text)
            labels = [attributes.get("aria-label") or "" for tag, attributes in shown.tags if tag == "svg"]
            if "day" in page:  # the highest numbers of five minutes
                assert labels[0].startswith("Saturation: 9 of 10 sessions and 2 waiting at ")
            else:
                assert "9 of 10 sessions and 0 waiting at " in labels[0]
                assert "and 2 waiting." in labels[0]
            assert {"sessions", "waiting", "limit"} <= {a["class"] for tag, a in shown.tags if tag == "polyline"}


async def test_waits_are_drawn_and_ends_are_counted() -> None:
    async with watched() as server:
        assert "No session has needed a sandbox yet." in (await server.open("/ui/pool?pool=ci")).text
        for number in range(3):
            await server.begin(f"user-000{number}")
        page = " ".join(" ".join(Read((await server.open("/ui/pool?pool=ci")).text).text).split())
        assert "3 in all; 95% of them ≤ " in page
        assert "cold 3" in page


async def test_sessions_are_found_and_come_in_pages() -> None:
    pool = Told(*(f"user-{number:04}" for number in range(120)))
    async with watched(backends={"ci": backend(pool), "other": backend(Told("elsewhere"))}) as server:

        async def names(query: str) -> list[str]:
            shown = Read((await server.open(f"/ui/sessions{query}")).text)
            return [text for text in shown.text if text.startswith(("user-", "elsewhere"))]

        assert len(await names("")) == 50
        assert (await names("?page=3"))[-1] == "elsewhere"
        assert await names("?pool=other") == ["elsewhere"]
        assert await names("?pool=ci&find=-0007") == ["user-0007"]
        assert await names("?find=nothing") == []
        assert await names("?page=99999") == await names("?page=3")
        for odd in ("-1", "x", "٣", "9" * 30):
            assert len(await names(f"?page={odd}")) == 50
        last = Read((await server.open("/ui/sessions?pool=ci&page=2&find=user")).text)
        links = [attributes["href"] or "" for tag, attributes in last.tags if tag == "a" and attributes.get("rel")]
        assert [dict(parse_qsl(urlsplit(link).query))["page"] for link in links] == ["1", "3"]
        assert all("find=user" in link for link in links)


async def test_the_usage_of_the_pools_is_shown() -> None:
    async with watched(backends={"ci": backend(Told()), "gone": backend(Silent())}) as server:
        text = " ".join(" ".join(Read((await server.open("/ui/usage")).text).text).split())
        assert "ci 1,234 0 0.0 ms 2.0 h 2.00 1.0 GiB" in text
        assert "0.0 ms no price set no price set none" in text
        assert "gone not available" in text


PRICES = Prices.parse(
    {
        "currency": "EUR",
        "code_interpreter": {"session_hour": 0.5, "source": "an example", "date": date(2026, 1, 31)},
        "here": {"cpu_hour": 2.0, "gib_hour": 7.2, "source": "an example", "date": date(2026, 1, 31)},
    }
)


async def test_costs_are_estimated_with_the_price_list() -> None:
    async with watched("ci", with_log=True, prices=PRICES) as server:
        usage = SessionUsage(source=UsageSource.CONTROL_GROUPS, cpu=1800.0, memory_time=float(1 << 30), session_hours=3)
        happen(server, "ci", SandboxRemoved(EndCause.DELETED, "user-0001", usage))
        for query in ("", "?by=session"):
            page = (await server.open(f"/ui/usage{query}")).text
            assert page.count("EUR here") == page.count("EUR in Azure") == 2
            ended = page.partition('id="ended"')[2].partition("<tbody>")[2].partition("</tbody>")[0]
            assert "1.0020 1.5000 0" in " ".join(" ".join(Read(ended).text).split())


async def test_the_cost_of_a_pool_includes_its_spare_sandboxes() -> None:
    class Spare(Told):
        async def pool_usage(self) -> PoolUsage:
            return PoolUsage(
                sessions=2, source=UsageSource.DOCKER, cpu=1800.0, spare_cpu=900.0, memory_time=0.0, session_hours=2
            )

    async with watched(backends={"ci": backend(Spare()), "gone": backend(Silent())}, prices=PRICES) as server:
        text = " ".join(" ".join(Read((await server.open("/ui/usage")).text).text).split())
        assert "15.0 min 1.5000 1.0000 docker" in text


async def test_a_page_refreshes_on_request() -> None:
    async with watched() as server:
        assert "refresh" not in (await server.open("/ui/sessions?find=x")).headers
        page = await server.open("/ui/sessions?find=x&refresh=10&stopped=1")
        assert page.headers["refresh"] == "10"
        assert '<a href="/ui/sessions?find=x">Stop refreshing</a>' in page.text
        assert "refresh" not in (await server.open("/ui/sessions?refresh=0")).headers


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/ui/nothing", 404),
        ("GET", "/ui/pool?pool=nobody", 404),
        ("GET", "/ui/sessions?pool=nobody", 404),
        ("GET", "/ui/pool?pool=%3Cscript%3E", 404),
        ("GET", "/ui/sessions/stop", 405),
        ("GET", "/ui/sign-out", 405),
        ("POST", "/ui", 405),
        ("PUT", "/ui/sign-in", 405),
        ("GET", "/ui?a=1&a=2", 400),
        ("POST", "/ui/sign-in", 400),
        ("GET", "/ui/%2E%2E%2Fmetrics", 404),
        ("GET", "/ui/templates/base.html", 404),
        ("GET", "/ui/..%2Fapp.py", 404),
    ],
)
async def test_a_failed_request_is_answered_with_a_page(method: str, path: str, status: int) -> None:
    async with watched() as server:
        answer = await server.client.request(method, path)
        assert (answer.status_code, answer.headers["content-type"]) == (status, "text/html; charset=utf-8"), answer.text
        assert 'role="alert"' in answer.text
        assert "<script" not in answer.text


async def test_the_size_of_a_form_is_limited() -> None:
    async with watched() as server:
        assert (await server.send("/ui/sign-in", key="x" * 40_000)).status_code == 413
        assert (await server.send("/ui/sign-in", FORM, **{f"f{n}": "" for n in range(11)})).status_code == 400
        for content, kind, status in (
            ("key=1&key=2", "application/x-www-form-urlencoded", 400),
            ('{"key": "1"}', "application/json", 400),
            (b"\xff\xfe=%ff", "application/x-www-form-urlencoded; charset=utf-16", 401),
        ):
            answer = await server.client.post("/ui/sign-in", content=content, headers={"content-type": kind})
            assert answer.status_code == status


async def test_every_answer_has_the_strict_headers() -> None:
    async with watched() as server:
        for method, path in (
            *(("GET", page) for page in ("/ui", "/ui/sign-in", "/ui/style.css", "/ui/icon.svg", "/ui/nothing")),
            ("POST", "/ui/sign-in"),
            ("POST", "/ui/sign-out"),
        ):
            answer = await server.client.request(method, path)
            assert HEADERS.items() <= dict(answer.headers).items()
            assert answer.headers["cache-control"] == "no-store"
            policy = answer.headers["content-security-policy"]
            assert "default-src 'none'" in policy
            assert "unsafe" not in policy
            assert "script" not in policy, "there is none to allow"


@pytest.mark.parametrize("template", sorted(path.name for path in TEMPLATES.iterdir()))
def test_no_template_needs_what_the_policy_forbids(template: str) -> None:
    text = (TEMPLATES / template).read_text()
    shown = Read(text)
    assert not {tag for tag, _ in shown.tags} & {"script", "style", "iframe", "object", "embed", "base"}
    assert "|safe" not in text.replace(" ", "")
    for _, attributes in shown.tags:
        assert not {name for name in attributes if name == "style" or name.startswith("on")}
        for name in ("href", "src", "action"):
            assert (attributes.get(name) or "#").startswith(("/ui", "#", "{{")), "it is on this server"


async def test_stopping_a_session_cancels_its_executions() -> None:
    async with watched() as server:
        running = asyncio.create_task(server.begin("user-0001", code="import time; time.sleep(60)"))
        async with asyncio.timeout(60):
            while await server.sessions() != ["user-0001"]:  # noqa: ASYNC110  it is about what happens elsewhere
                await asyncio.sleep(0.01)
        stopped = await server.send(
            "/ui/sessions/stop", form_token=await server.form_token(), pool="ci", session="user-0001", shown="ci"
        )
        assert stopped.headers["location"] == "/ui/sessions?pool=ci&stopped=1"
        with pytest.raises(greenroom.GreenroomError):
            await running
        assert await server.sessions() == []


async def test_an_invalid_session_identifier_stops_nothing() -> None:
    pool = Told("user-0001")
    async with watched(backends={"ci": backend(pool)}) as server:
        for session in ("", "abc", "with space", "%00%00%00%00"):
            token = await server.form_token()
            answer = await server.send("/ui/sessions/stop", form_token=token, pool="ci", session=session)
            assert answer.status_code == 400
        assert pool.deleted == []


async def test_two_pools_of_one_name_are_not_mistaken_for_each_other() -> None:
    async with watched("ci") as server:
        other = server.app.pools.add("second", backend(Told("user-0001")))
        other.signal_name = "ci"
        assert (await server.open("/ui/pool?pool=ci")).status_code == 404
        token = await server.form_token()
        answer = await server.send("/ui/sessions/stop", form_token=token, pool="ci", session="user-0001")
        assert answer.status_code == 404


def happen(server: Watched, pool: str, *events: TelemetryEvent) -> None:
    assert server.logs is not None
    observe = server.logs.observer_of(pool)
    for event in events:
        observe(event)


async def lines(server: Watched, query: str = "") -> list[str]:
    """The records of a page of the log, without their times."""
    page = await server.open(f"/ui/log{query}")
    assert page.status_code == 200, page.text
    table = page.text.partition("<tbody>")[2].partition("</tbody>")[0]
    return [" ".join(" ".join(Read(row).text).split()[1:]) for row in table.split("<tr>")[1:]]


LOST = "ci user-0001 SessionEnded Warning The session has ended: ended by itself. 60.0 s"


async def test_the_log_is_filtered_and_its_latest_records_come_first() -> None:
    async with watched("ci", "team/ci", with_log=True) as server:
        assert "No records match these filters." in (await server.open("/ui/log")).text
        happen(
            server,
            "ci",
            SandboxStarted(0.25),
            SessionAllocated("user-0001", 0.5, warm=False),
            ExecutionEnded("user-0001", "succeeded", 2.0, Work.CODE, 17, None),
            SandboxEnded(EndCause.LOST, "user-0001", 60.0),
        )
        happen(server, "team/ci", SessionAllocated("user-0002", 0.0, warm=True), EngineLost())
        everything = await lines(server)
        assert everything[0] == "team/ci EngineLost Error The engine does not respond."
        assert len(everything) == 6
        assert await lines(server, "?pool=ci&level=Warning") == [LOST]
        assert await lines(server, "?session=user-0001&operation=SessionEnded") == [LOST]
        (line,) = await lines(server, "?log=executions&pool=ci")
        assert line.startswith("ci user-0001 ExecutionEnded Information ")
        assert len(await lines(server, "?pool=team/ci")) == 2
        assert await lines(server, "?pool=gone") == []
        assert await lines(server, "?window=15m&level=Error") == everything[:1]
        odd = "?window=x&level=x&operation=x&log=x&before=x&session="
        assert await lines(server, odd) == everything, "a word that is none is no filter"


async def test_the_log_comes_in_pages() -> None:
    async with watched(with_log=True) as server:
        happen(server, "ci", *(SessionAllocated(f"user-{number:04}", 0.0, warm=True) for number in range(250)))
        found, path = list[str](), "/ui/log?pool=ci&operation=SessionAllocated"
        for _ in range(3):
            found += await lines(server, path.removeprefix("/ui/log"))
            tags = Read((await server.open(path)).text).tags
            path = next((a["href"] or "" for tag, a in tags if tag == "a" and a.get("rel") == "next"), "")
        assert path == "", "there are no more"
        assert [line.split()[1] for line in found] == [f"user-{number:04}" for number in reversed(range(250))]


async def test_the_log_is_only_for_managers() -> None:
    async with guarded(with_log=True) as server:
        await server.sign_in(USER)
        assert (await server.open("/ui/log")).status_code == 403
        assert "/ui/log" not in (await server.open()).text
        await server.sign_in(MANAGER)
        assert (await server.open("/ui/log")).status_code == 200
        assert 'href="/ui/log"' in (await server.open()).text
    async with watched() as server:
        assert (await server.open("/ui/log")).status_code == 404, "it keeps none"


async def test_an_unreadable_log_is_reported() -> None:
    async with watched(with_log=True) as server:
        assert server.logs is not None

        async def fail(*_: object) -> None:
            raise sqlite3.OperationalError("disk I/O error")

        vars(server.logs).update(records=fail, usage=fail)
        for path in ("/ui/log", "/ui/usage"):
            answer = await server.open(path)
            assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
            assert "disk I/O error" in answer.text
        assert (await server.open("/ui")).status_code == 200


async def test_the_usage_of_ended_sessions_is_added_up() -> None:
    async with watched("ci", "other", with_log=True) as server:
        usage = SessionUsage(wall=30.0, executions=2, cpu=1.5, memory_time=float(1 << 30), peak_memory=1 << 20)
        for pool, identifier in (("ci", "user-0001"), ("ci", "user-0002"), ("other", "user-0001")):
            happen(server, pool, SandboxRemoved(EndCause.DELETED, identifier, usage))

        async def sums(query: str) -> list[str]:
            ended = (await server.open(f"/ui/usage{query}")).text.partition('id="ended"')[2]
            rows = ended.partition("<tbody>")[2].partition("</tbody>")[0].split("<tr>")[1:]
            return [" ".join(" ".join(Read(row).text).split()) for row in rows]

        assert sorted(await sums("")) == [
            "ci 2 4 60.0 s 3.0 s 2.00 1.0 MiB no price set no price set 2",
            "other 1 2 30.0 s 1.5 s 1.00 1.0 MiB no price set no price set 1",
        ]
        assert sorted(await sums("?by=session&window=all")) == [
            "ci user-0001 1 2 30.0 s 1.5 s 1.00 1.0 MiB no price set no price set 1",
            "ci user-0002 1 2 30.0 s 1.5 s 1.00 1.0 MiB no price set no price set 1",
            "other user-0001 1 2 30.0 s 1.5 s 1.00 1.0 MiB no price set no price set 1",
        ]


HOSTILE = st.one_of(
    st.text(max_size=60),
    st.text(alphabet="<>\"'&`{}%/= \n\r\t\0\x1b\u202e\u2066\u2028\x85abc", max_size=60),
    st.sampled_from(
        [
            "<script>alert(1)</script>",
            '"><img src=x onerror=alert(1)>',
            "{{ 7 * 7 }}{% raw %}",
            "\u202egpj.exe",
            "line\none\r\nSet-Cookie: a=b",
            "javascript:alert(1)",
            "</title><svg onload=alert(1)>",
            "%3Cscript%3E%250a",
        ]
    ),
).map(lambda text: text.encode("utf-8", "replace").decode())


async def every_page(server: Watched, pool: str) -> list[str]:
    paths = ("/ui", "/ui/sessions", "/ui/usage", "/ui/usage?by=session", "/ui/log")
    pages = [await server.open(page) for page in paths]
    links = [a["href"] or "" for tag, a in Read(pages[0].text).tags if tag == "a"]
    found = [link for link in links if link.startswith(("/ui/pool?", "/ui/sessions?pool="))]
    assert {unquote(dict(parse_qsl(urlsplit(link).query))["pool"]) for link in found} == {pool}
    pages += [await server.open(link) for link in dict.fromkeys(found)]
    for page in pages:
        assert page.status_code == 200, page.text
    return [page.text for page in pages]


async def pages_with(pool: str, identifier: str) -> list[str]:
    """All pages of a server with a pool and a session of these names."""
    async with watched(backends={pool: backend(Told(identifier))}, with_log=True) as server:
        await server.history.sample()
        removed = SandboxRemoved(EndCause.DELETED, identifier, SessionUsage())
        happen(server, pool, SessionAllocated(identifier, 0.0, warm=True), removed)
        return await every_page(server, pool)


@functools.cache
def plain_shapes() -> list[list[tuple[str, frozenset[str]]]]:
    return [Read(page).shape for page in asyncio.run(pages_with("plain", "user-0001"))]


@settings(max_examples=examples(20))
@given(HOSTILE.filter(bool), HOSTILE.filter(bool))
def test_hostile_names_are_text_and_their_links_work(pool: str, identifier: str) -> None:
    read = [Read(page) for page in asyncio.run(pages_with(pool, identifier))]
    assert [page.shape for page in read] == plain_shapes()
    for page in read:
        shown = [*page.text, *(value or "" for _, attributes in page.tags for value in attributes.values())]
        # No control character, no change of direction, no end of a line but those of the templates.
        assert "".join(shown).replace("\n", "").isprintable()
    hidden = {a["name"]: a["value"] or "" for tag, a in read[1].tags if tag == "input" and "value" in a}
    assert unquote(hidden["pool"]) == pool
    assert unquote(hidden["session"]) == identifier


@settings(max_examples=examples(40))
@given(HOSTILE.filter(bool), HOSTILE.filter(bool))
def test_hostile_callers_and_messages_are_text(caller: str, message: str) -> None:
    def page(caller: str, message: str) -> str:
        registry = PoolRegistry()
        pages = Pages(registry, Access(None, None), History(registry))
        viewer = Viewer(caller, can_manage=True, form_token="token")
        refused = bytes(pages.refused(viewer, Problem(400, "code", message)).body).decode()
        return refused + bytes(pages.sign_in(message).body).decode()

    assert Read(page(caller, message)).shape == Read(page("caller", "message")).shape


@settings(max_examples=examples(40))
@given(
    st.dictionaries(
        st.sampled_from(["pool", "find", "page", "span", "window", "by", "session", "before", "x"]), HOSTILE, max_size=4
    )
)
def test_a_hostile_query_is_text(query: dict[str, str]) -> None:
    async def answers() -> list[Any]:
        async with watched(backends={"ci": backend(Told("user-0001"))}, with_log=True) as server:
            return [
                await server.client.get(path, params=query)
                for path in ("/ui", "/ui/pool", "/ui/sessions", "/ui/usage", "/ui/log")
            ]

    for answer in asyncio.run(answers()):
        assert answer.status_code in {200, 400, 404}
        assert not {tag for tag, _ in Read(answer.text).tags} & {"script", "img src=x", "iframe"}
        assert sum(tag == "img" for tag, _ in Read(answer.text).tags) == 1, "the icon's"
        assert sum(tag == "h1" for tag, _ in Read(answer.text).tags) == 1
