"""Environment variables for Ray and MLflow, which Ray's workers inherit."""

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
"""Maximum bytes of the path of Ray's temporary folder: a Unix socket below it may have 107."""
TOKEN_FILE = ".ray/auth_token"
"""Ray's file, in the home folder, with the token for all clusters of a user."""
MATPLOTLIB_FOLDER = "MPLCONFIGDIR"
SPIN_COUNT = "20000"
"""How long OpenMP's threads spin before they sleep: waking one takes longer than a small layer."""


def prepare_environment() -> None:
    """Sets the environment variables; must be called before Ray is imported.

    Raises:
        ValueError: something that the process needs is missing; the message says the remedy.
    """
    os.environ |= {
        "RAY_AIR_NEW_OUTPUT": "0",  # Ray must not write to the terminal
        "RAY_DEDUP_LOGS_SKIP_REGEX": ".*",
        "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",
        "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
        "TUNE_DISABLE_SIGINT_HANDLER": "1",
        "TUNE_MAX_PENDING_TRIALS_PG": "1000",  # the searcher itself limits pending trials
        # Workers use this Python environment; under uv, Ray would create a new one for each
        "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
        "OMP_WAIT_POLICY": "passive",  # threads that spin starve the trials beside them
    }
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
    # `AsyncCallback` retries an MLflow that does not answer, without blocking the search
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
    for name in ("USER", "LOGNAME"):  # torch and MLflow need a user name; containers may lack one
        os.environ.setdefault(name, user_name())
    bring_matplotlib_a_folder()
    if not on_cluster():
        os.environ.pop(CLUSTER_ADDRESS, None)
        os.environ["RAY_AUTH_MODE"] = "token"
        bring_token()
        os.environ["RAY_TMPDIR"] = str(sockets_folder())
        # Workers of Ray start at once, and import PyTorch before they are used
        os.environ |= {"RAY_preload_python_modules": "trainables.trainable"}
        # Without the ability to form a cluster, every socket of Ray is bound to 127.0.0.1
        os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"


def let_threads_spin() -> None:
    """Lets OpenMP's threads spin before they sleep; must be called before PyTorch is imported.

    For processes that are alone on their cores, as a preparation is where trials have one thread.
    """
    os.environ.setdefault("GOMP_SPINCOUNT", SPIN_COUNT)


def user_name() -> str:
    """The user's name, or a substitute in a container whose user has none."""
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return str(os.getuid())


def home() -> Path:
    """The home folder, which may not exist."""
    return Path(os.path.expanduser("~"))


def bring_token() -> None:
    """Creates a token for Ray on this machine, where the user has none."""
    given = {"RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"} & set(os.environ)
    if not given and not os.access(home() / TOKEN_FILE, os.R_OK):
        os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)


def bring_matplotlib_a_folder() -> None:
    """Sets a cache folder for Matplotlib, where its own cannot be written."""
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
