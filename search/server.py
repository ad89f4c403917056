"""Runs an MLflow server with a password, to which the drivers of a cluster deliver their records.

python -m search.server ~/mlflow
"""

import argparse
import configparser
import os
import secrets
import sys
from pathlib import Path

from search.core.tracking_uri import (
    TRACKING_VARIABLE,
    check_tracking_uri,
    default_tracking_uri,
    sqlite_uri,
)
from search.tracking.web_server import (
    MLFLOW_PORT,
    NotStarted,
    choose_port,
    end_by_any_signal,
    mlflow_server,
    port_number,
    wait_for_signal,
)
from trainables.core.command_line import Parser, as_path, report
from trainables.core.files import replace_file
from trainables.core.optional_dependencies import require_server

CREDENTIALS = "~/.mlflow/credentials"
"""MLflow's file with the name and the password that its clients on this machine use."""
SECTION, USER_KEY, PASSWORD_KEY = "mlflow", "mlflow_tracking_username", "mlflow_tracking_password"
USER = "paretoseg"
USERS = "users.db"
"""The server's own database of users; the password in it is the first that it was given."""
TRUSTED_S = 60
"""Seconds for which a password that was right is not checked again, which takes long."""
EPILOG = f"""The password is made once and kept in {CREDENTIALS}, where MLflow's clients on this
machine find it. The server listens on 127.0.0.1 only: from elsewhere, forward its port by SSH.

exit status: 0 ended by Ctrl-C; 1 the server could not be started; 2 bad input.
"""


def main(argv: list[str] | None = None) -> int:
    """Serves until it is interrupted; gives the exit status."""
    arguments = parse(argv)
    end_by_any_signal()
    return report(lambda: serve(arguments), NotStarted)


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = Parser(
        "python -m search.server",
        "Run an MLflow server with a password, which several drivers use at once.",
        EPILOG,
    )
    add = parser.add_argument
    add("folder", type=as_path, metavar="FOLDER", help="of its files, on this machine's own disk")
    add(
        "--store",
        metavar="URI",
        help="another database, as postgresql://USER@HOST/NAME (default: SQLite in FOLDER)",
    )
    add(
        "--port",
        type=port_number,
        default=MLFLOW_PORT,
        metavar="N",
        help="where it listens (default: %(default)s)",
    )
    return parser.parse_args(argv)


def serve(arguments: argparse.Namespace) -> None:
    """Serves until Ctrl-C or SIGTERM.

    Raises:
        NotStarted: MLflow does not start.
        ValueError: the port is in use, the store is none, or the password is lost.
    """
    require_server("search.server")
    folder = arguments.folder.absolute()
    store = check_tracking_uri(arguments.store, "--store") if arguments.store else ""
    port = choose_port(arguments.port, MLFLOW_PORT)
    folder.mkdir(parents=True, exist_ok=True)
    uri = store or default_tracking_uri(folder)
    password = find_password(Path(os.path.expanduser(CREDENTIALS)), folder / USERS)
    settings = folder / "users.ini"
    users = sqlite_uri(folder / USERS).replace("%", "%%")  # as such files are read
    replace_file(
        settings,
        f"[mlflow]\ndefault_permission = NO_PERMISSIONS\ndatabase_uri = {users}\n"
        f"admin_username = {USER}\n"
        "authorization_function = mlflow.server.auth:authenticate_request_basic_auth\n"
        f"auth_cache_ttl_seconds = {TRUSTED_S}\n",
    )
    print("starting MLflow", flush=True)
    with mlflow_server(
        uri,
        folder / "files",
        port,
        *("--app-name", "basic-auth"),
        MLFLOW_AUTH_CONFIG_PATH=str(settings),
        MLFLOW_AUTH_ADMIN_PASSWORD=password,
        MLFLOW_FLASK_SERVER_SECRET_KEY=secrets.token_hex(32),
    ) as address:
        print(f"user {USER}, password in {CREDENTIALS}")
        print(f"drivers on this machine: export {TRACKING_VARIABLE}={address}")
        wait_for_signal()


def find_password(credentials: Path, users: Path) -> str:
    """The password of the server, which is made where there is none.

    Raises:
        ValueError: the server has one that is not in `credentials` any more.
    """
    parser = configparser.ConfigParser(interpolation=None)
    parser.read(credentials)
    if parser.get(SECTION, USER_KEY, fallback="") == USER:
        return parser.get(SECTION, PASSWORD_KEY)
    if users.exists():
        raise ValueError(
            f"{credentials} must have the password of user {USER}, but has not: put it back, or "
            f"delete {users} for a new one"
        )
    if parser.has_section(SECTION):
        raise ValueError(
            f"{credentials} must have no password of another server, but has one: move it away"
        )
    password = secrets.token_urlsafe(24)
    parser[SECTION] = {USER_KEY: USER, PASSWORD_KEY: password}
    credentials.parent.mkdir(mode=0o700, exist_ok=True)
    credentials.touch(mode=0o600)
    with credentials.open("w") as file:
        parser.write(file)
    return password


if __name__ == "__main__":
    sys.exit(main())
