"""Whether the owner of a container is gone: in doubt, it is not."""

from __future__ import annotations

import subprocess
import sys

import pytest

from greenroom.engines import owner

PID, STARTED = "greenroom.owner.pid", "greenroom.owner.started"


@pytest.fixture
def dead() -> dict[str, str]:
    """The labels of a process that has ended."""
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        return {**owner.labels(), PID: str(process.pid)}


def test_this_process_counts_as_alive() -> None:
    assert not owner.is_gone(owner.labels())


def test_an_ended_process_counts_as_gone(dead: dict[str, str]) -> None:
    assert owner.is_gone(dead)


def test_a_new_process_with_the_old_number_is_not_the_owner() -> None:
    assert owner.is_gone({**owner.labels(), STARTED: "1"})


def test_processes_of_other_machines_and_namespaces_are_left_alone(dead: dict[str, str]) -> None:
    assert not owner.is_gone({**dead, owner.MACHINE: "another boot/pid:[1]"})


@pytest.mark.parametrize("labels", [{}, {PID: "none"}, {STARTED: ""}])
def test_containers_with_incomplete_labels_are_left_alone(labels: dict[str, str]) -> None:
    known = {} if not labels else owner.labels()
    assert not owner.is_gone({**known, **labels})
