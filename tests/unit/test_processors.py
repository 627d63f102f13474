from __future__ import annotations

import math

import pytest

from shitu_server.processors import cgroup_processors, processor_count


@pytest.fixture
def own(tmp_path):
    path = tmp_path / "cgroup"
    path.write_text("0::/pods/mine\n")
    return path


def limit(folder, text):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "cpu.max").write_text(text)


def test_the_least_of_all_groups_above_counts(tmp_path, own):
    root = tmp_path / "root"
    limit(root / "pods" / "mine", "300000 100000\n")
    limit(root / "pods", "150000 100000\n")
    limit(root, "max 100000\n")
    assert cgroup_processors(root, own) == 1.5


def test_a_container_sees_its_own_group_as_the_root(tmp_path, own):
    limit(tmp_path / "root", "200000 100000\n")
    assert cgroup_processors(tmp_path / "root", own) == 2


def test_version_1(tmp_path, own):
    own.write_text("5:cpu,cpuacct:/mine\n3:memory:/mine\n0::/\n")
    folder = tmp_path / "root" / "cpu" / "mine"
    folder.mkdir(parents=True)
    (folder / "cpu.cfs_quota_us").write_text("50000\n")
    (folder / "cpu.cfs_period_us").write_text("100000\n")
    assert cgroup_processors(tmp_path / "root", own) == 0.5
    (folder / "cpu.cfs_quota_us").write_text("-1\n")
    assert cgroup_processors(tmp_path / "root", own) == math.inf


def test_where_nothing_limits_all_count(tmp_path, own):
    limit(tmp_path / "root", "max 100000\n")
    assert cgroup_processors(tmp_path / "root", own) == math.inf
    assert cgroup_processors(tmp_path / "root", tmp_path / "none") == math.inf


@pytest.mark.parametrize(("granted", "count"), [(math.inf, 4), (4.0, 4), (1.5, 2), (0.2, 1)])
def test_affinity_and_the_cgroup_both_limit(monkeypatch, granted, count):
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {1, 3, 5, 7})
    monkeypatch.setattr("shitu_server.processors.cgroup_processors", lambda *_: granted)
    assert processor_count() == count
