"""Environment variables that Ray and MLflow read, of which Ray hands its own to its workers."""

import atexit
import os
import pwd
import secrets
import shutil
import tempfile
from pathlib import Path

from search.execution.cluster_address import CLUSTER_ADDRESS, on_cluster
from trainables.core.files import is_writable

LONGEST_FOLDER = 40
"""Bytes of the path of Ray's temporary folder: those of a Unix socket below it may be 107."""
TOKEN_FILE = ".ray/auth_token"
"""Where Ray keeps a token for all of a user's clusters, in the home folder."""
MATPLOTLIB_FOLDER = "MPLCONFIGDIR"


def prepare_environment() -> None:
    """To be called before Ray is imported.

    Raises:
        ValueError: something that the process needs is not there; the message says the remedy.
    """
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
    for name in ("USER", "LOGNAME"):  # torch and MLflow ask who runs them; containers may not know
        os.environ.setdefault(name, user_name())
    bring_matplotlib_a_folder()
    if not on_cluster():
        os.environ.pop(CLUSTER_ADDRESS, None)
        os.environ["RAY_AUTH_MODE"] = "token"
        bring_token()
        os.environ["RAY_TMPDIR"] = str(sockets_folder())
        # Without the ability to form a cluster, every socket of Ray is bound to 127.0.0.1
        os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"


def user_name() -> str:
    """The user's name; a container may run as a user who has none."""
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return str(os.getuid())


def home() -> Path:
    """The home folder, be it there or not."""
    return Path(os.path.expanduser("~"))


def bring_token() -> None:
    """Gives Ray on this machine a token of its own, where the user has none."""
    given = {"RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"} & set(os.environ)
    if not given and not os.access(home() / TOKEN_FILE, os.R_OK):
        os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)


def bring_matplotlib_a_folder() -> None:
    """Gives Matplotlib a folder for its cache, where it has none that can be written."""
    configured = Path(os.environ.get("XDG_CONFIG_HOME") or home() / ".config")
    if MATPLOTLIB_FOLDER not in os.environ and not is_writable(configured / "matplotlib"):
        folder = tempfile.mkdtemp(prefix="paretoseg-matplotlib-")
        os.environ[MATPLOTLIB_FOLDER] = folder
        atexit.register(shutil.rmtree, folder, ignore_errors=True)


def sockets_folder() -> Path:
    """A folder for Ray's sockets and logs, whose path is short enough.

    Raises:
        ValueError: there is none that can be written.
    """
    requested = os.environ.get("RAY_TMPDIR")
    candidates = [Path(requested)] if requested else [Path(tempfile.gettempdir()), Path("/tmp")]
    for folder in candidates:
        if is_writable(folder) and len(os.fsencode(folder)) <= LONGEST_FOLDER:
            return folder
    raise ValueError(
        "Ray must have a folder for its sockets that can be written and whose path has at most "
        f"{LONGEST_FOLDER} bytes, but got {' and '.join(map(str, candidates))}: set RAY_TMPDIR"
    )
