"""A comparison's fits on the workers of a Dask cluster, which see the same files."""

import contextlib
import importlib.util
from collections.abc import Iterator

import joblib


@contextlib.contextmanager
def on_cluster(scheduler: str | None) -> Iterator[None]:
    """Let joblib hand its work to a cluster for as long as the context lasts; to processes of this machine without one.

    Parameters
    ----------
    scheduler : str, optional
        Address of the scheduler, as ``tcp://10.0.0.1:8786``.

    Raises
    ------
    ValueError
        Where Dask is not installed.
    OSError
        Where no scheduler answers.
    """
    if scheduler is None:
        yield
        return
    if importlib.util.find_spec("distributed") is None:
        msg = "a cluster needs Dask. It is not installed here; pip install 'sslfeat[dask]'."
        raise ValueError(msg)
    try:
        config = joblib.parallel_config("dask", scheduler_host=scheduler)
    except OSError as error:
        msg = f"{scheduler}: no scheduler answers there ({error}); `dask scheduler` starts one and tells its address."
        raise OSError(msg) from error
    with config:
        yield
