"""Environment variables that Ray and MLflow read, of which Ray hands its own to its workers."""

import os

from search.resources import on_cluster


def prepare_environment() -> None:
    """To be called before Ray is imported."""
    os.environ |= {
        "RAY_AIR_NEW_OUTPUT": "0",  # the terminal is ours
        "RAY_DEDUP_LOGS_SKIP_REGEX": ".*",
        "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",
        "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
        "TUNE_DISABLE_SIGINT_HANDLER": "1",
        "TUNE_MAX_PENDING_TRIALS_PG": "1000",  # the searcher itself says how many may wait
        # Workers share this environment; under uv, Ray would build each of them a new one
        "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
        "OMP_WAIT_POLICY": "passive",  # threads that spin starve the trials beside them
    }
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
    # A silent MLflow is tried again by Delivery, which nobody waits for
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
    if not on_cluster():
        os.environ["RAY_AUTH_MODE"] = "token"
        # Without the ability to form a cluster, every socket of Ray is bound to 127.0.0.1
        os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
