"""What containers with egress can reach, and what they cannot: this machine, its containers, the services of clouds."""

from __future__ import annotations

import ipaddress
import json
import os
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from tests.waiting import within

import greenroom
from greenroom import Session
from greenroom.engines.docker.egress import is_elsewhere

from .conftest import docker, template

pytestmark = pytest.mark.slow

SERVER = """
import http.server, sys
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        body = f"outside {self.path} {self.headers.get('proxy-connection')}".encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
http.server.ThreadingHTTPServer.request_queue_size = 128
http.server.ThreadingHTTPServer(("0.0.0.0", 8000), Handler).serve_forever()
"""
FETCH = """
import urllib.request, urllib.error
for url in urls:
    try:
        print(urllib.request.urlopen(url, timeout=10).read().decode())
    except urllib.error.HTTPError as error:
        print(error.code, error.read().decode().strip())
    except OSError as error:
        print(type(error).__name__, error)
"""
MANY = """
import concurrent.futures, urllib.request
def get(number):
    try:
        return urllib.request.urlopen(url + str(number), timeout=60).read()
    except OSError as error:
        print(number, repr(error))
with concurrent.futures.ThreadPoolExecutor(40) as threads:
    print(len(set(threads.map(get, range(120))) - {None}))
"""
TUNNEL = """
import os, socket
from urllib.parse import urlsplit
proxy = urlsplit(os.environ["HTTPS_PROXY"])
for target in targets:
    connection = socket.create_connection((proxy.hostname, proxy.port), timeout=10)
    connection.sendall(f"CONNECT {target} HTTP/1.1\\r\\nHost: {target}\\r\\n\\r\\n".encode())
    answer = connection.recv(1000).split(b"\\r\\n")[0]
    if b" 200 " in answer:
        connection.sendall(b"GET /tunnel HTTP/1.0\\r\\n\\r\\n")
        answer = b"".join(iter(lambda: connection.recv(1000), b"")).split(b"\\r\\n\\r\\n")[-1]
    print(answer.decode())
"""


@pytest.fixture(scope="module")
def outside() -> Iterator[str]:
    """The address of another machine: a network namespace at the other end of a virtual cable."""
    if os.geteuid() != 0 or shutil.which("ip") is None:
        pytest.skip("making a network namespace needs root and the command ip")
    name = f"gr-out-{os.getpid()}"
    near, far, local = f"gr{os.getpid()}a", f"gr{os.getpid()}b", "10.213.77"

    def ip(*arguments: str) -> None:
        subprocess.run(["ip", *arguments], check=True, capture_output=True, timeout=30)

    ip("netns", "add", name)
    try:
        ip("link", "add", near, "type", "veth", "peer", "name", far)
        ip("link", "set", far, "netns", name)
        ip("addr", "add", f"{local}.1/30", "dev", near)
        ip("link", "set", near, "up")
        ip("-n", name, "addr", "add", f"{local}.2/30", "dev", far)
        ip("-n", name, "link", "set", far, "up")
        with subprocess.Popen(["ip", "netns", "exec", name, sys.executable, "-c", SERVER]) as server:
            try:
                assert within(60, lambda: _listens(f"{local}.2", 8000))
                yield f"{local}.2"
            finally:
                server.kill()
    finally:
        ip("netns", "del", name)


def _listens(host: str, port: int) -> bool:
    try:
        socket.create_connection((host, port), timeout=1).close()
    except OSError:
        return False
    return True


@pytest.fixture(scope="module")
def session(image: str) -> Iterator[Session]:
    resource = template(image, sessionNetworkConfiguration={"status": "EgressEnabled"})
    with greenroom.connect("docker:", template=resource) as pool, pool.session() as session:
        yield session


def run(session: Session, code: str, **values: object) -> list[str]:
    preamble = "".join(f"{name} = {value!r}\n" for name, value in values.items())
    return session.request("POST", "/run", content=preamble + code, timeout=120).raise_for_status().text.splitlines()


def test_another_machine_is_reached_through_the_proxy(session: Session, outside: str) -> None:
    assert run(session, FETCH, urls=[f"http://{outside}:8000/a?b=c"]) == ["outside /a?b=c None"]
    assert run(session, TUNNEL, targets=[f"{outside}:8000"]) == ["outside /tunnel None"]
    assert run(session, FETCH, urls=["http://127.0.0.1:8080/"])[-1] == "hello"  # itself, without the proxy
    assert run(session, MANY, url=f"http://{outside}:8000/") == ["120"]


def test_this_machine_and_its_containers_cannot_be_reached(session: Session, image: str) -> None:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"a service of the host")

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            pass

    bridge = json.loads(docker("network", "inspect", "bridge"))[0]["IPAM"]["Config"][0]
    gateway = str(next(ipaddress.ip_network(bridge["Subnet"]).hosts()))
    other = docker("run", "--detach", "--rm", image)
    server = ThreadingHTTPServer(("0.0.0.0", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        neighbour = docker("inspect", "--format", "{{.NetworkSettings.IPAddress}}", other)
        assert within(60, lambda: _listens(neighbour, 8080))  # the host can reach it
        port = server.server_port
        hosts = [gateway, "127.0.0.2", "0.0.0.0", "[::ffff:127.0.0.1]", "[::]", socket.gethostname(), "2130706433"]
        urls = [f"http://{host}:{port}/" for host in hosts]
        urls += [
            f"http://{neighbour}:8080/",
            f"http://[::ffff:{neighbour}]:8080/",
            "http://169.254.169.254/latest/meta-data",
        ]
        assert [line[:4] for line in run(session, FETCH, urls=urls)] == ["403 "] * len(urls)
        targets = [f"{host}:{port}" for host in (*hosts, "localhost")]
        assert set(run(session, TUNNEL, targets=targets)) == {"HTTP/1.1 403 Forbidden"}
    finally:
        server.shutdown()
        server.server_close()
        docker("rm", "--force", other)


def test_containers_with_egress_have_no_other_route(session: Session, outside: str) -> None:
    code = """
import socket
print(",".join(name for _, name in socket.if_nameindex()))
try:
    socket.create_connection((host, 8000), timeout=3)
except OSError as error:
    print(error.strerror)
"""
    assert run(session, code, host=outside) == ["lo", "Network is unreachable"]
    assert session.request("GET", "/").text == "hello"


@pytest.mark.parametrize(
    ("head", "status"),
    [
        ("GET / HTTP/1.1", 400),
        ("CONNECT nowhere HTTP/1.1", 400),
        ("GET https://example.com/ HTTP/1.1", 400),
        ("GET ftp://example.com/ HTTP/1.1", 400),
        ("CONNECT x:99999 HTTP/1.1", 400),
        ("CONNECT name.invalid:443 HTTP/1.1", 502),
        ("nonsense", 400),
    ],
)
def test_invalid_proxy_requests_are_refused(session: Session, head: str, status: int) -> None:
    code = """
import os, socket
from urllib.parse import urlsplit
proxy = urlsplit(os.environ["HTTP_PROXY"])
connection = socket.create_connection((proxy.hostname, proxy.port), timeout=10)
connection.sendall((head + "\\r\\n\\r\\n").encode())
print(connection.recv(1000).decode().split(" ")[1])
"""
    assert run(session, code, head=head) == [str(status)]


def test_only_public_and_private_hosts_count_as_elsewhere() -> None:
    for address in ("127.0.0.1", "0.0.0.0", "169.254.169.254", "224.0.0.1", "::1", "fe80::1", "::", "::ffff:127.0.0.1"):
        assert not is_elsewhere(ipaddress.ip_address(address)), address
    for address in ("168.63.129.16", "100.100.100.200", "192.0.0.192", "fd00:ec2::254", "fd20:ce::254"):
        assert not is_elsewhere(ipaddress.ip_address(address)), f"{address} is a service of a cloud"
    assert not is_elsewhere(ipaddress.ip_address("2002:a9fe:a9fe::1")), "169.254.169.254 in another form"
    for address in ("192.0.2.1", "10.255.1.2", "8.8.8.8", "::ffff:8.8.8.8", "2606:4700::1111"):
        assert is_elsewhere(ipaddress.ip_address(address)), address
