import importlib.util

import joblib
import pytest

from classify.cluster import on_cluster
from classify.compare import compare


def test_no_scheduler_is_this_machine(monkeypatch):
    monkeypatch.setattr(joblib, "parallel_config", None)
    with on_cluster(None):
        pass


def test_what_is_missing_is_said(monkeypatch):
    def refuse(backend, scheduler_host):
        raise OSError(backend)

    monkeypatch.setattr(joblib, "parallel_config", refuse)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "distributed" else 0)
    with (
        pytest.raises(ValueError, match=r"needs Dask.*pip install 'sslfeat\[dask\]'"),
        on_cluster("tcp://far:1"),
    ):
        pass
    monkeypatch.setattr(importlib.util, "find_spec", str)
    match = r"tcp://far:1: no scheduler answers there \(dask\); `dask scheduler` starts one"
    with pytest.raises(OSError, match=match), on_cluster("tcp://far:1"):
        pass


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_a_real_cluster_gives_the_same(make_cache):
    distributed = pytest.importorskip("distributed")
    cache = make_cache("one")
    options = {"classifiers": ["ridge", "nearest-centroid"], "layers": [1, 2], "baselines": False}
    with (
        distributed.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster,
        on_cluster(cluster.scheduler_address),
    ):
        found = compare([cache], **options, n_jobs=-1)
    alone = compare([cache], **options)
    assert [row.predictions for row in found.results] == [row.predictions for row in alone.results]
