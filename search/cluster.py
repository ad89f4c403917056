"""Checks a cluster file for AWS before anything costs, and makes what it needs of an account.

python -m search.cluster check cluster.mine.yaml
"""

import argparse
import os
import secrets
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from search.cloud.aws_check import AwsCheck
from search.cloud.aws_setup import AwsSetup, check_range
from search.cloud.cluster_file import TOKEN, ClusterFile, local_findings, read_cluster_file
from trainables.core.command_line import Parser, as_path, one_line, report, write_output
from trainables.core.files import replace_file

EPILOG = """examples:
  uv run --with boto3 python -m search.cluster prepare cluster.yaml --ssh-from 203.0.113.7/32
  uv run --with boto3 python -m search.cluster check cluster.mine.yaml
  uv run --with boto3 ray up cluster.mine.yaml

exit status: 0 done, nothing found; 1 something must be mended; 2 bad input.
"""


class Unready(Exception):
    """Something would go wrong after `ray up`."""


def main(argv: list[str] | None = None) -> int:
    """Does what the command line says and gives the exit status."""
    arguments = parse(argv)
    work = check if arguments.action == "check" else prepare
    return report(lambda: ask_aws(lambda: work(arguments)), Unready)


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = Parser(
        "python -m search.cluster",
        "Check a cluster file for AWS before anything costs, or make what it needs of an account.",
        EPILOG,
    )
    parser.add_argument(
        "action",
        choices=("check", "prepare"),
        help="check: a line for everything that would go wrong, and prices; prepare: a security "
        "group, a narrow role for the head, an encrypted file system and a token are made, or "
        "those of an earlier call are found, and a file without placeholders is written",
    )
    parser.add_argument("file", type=as_path, metavar="FILE", help="a cluster file")
    preparing = parser.add_argument_group("prepare")
    preparing.add_argument(
        "--ssh-from",
        metavar="RANGE",
        help="addresses that may reach the nodes by SSH, as 203.0.113.7/32 (required); nothing "
        "else is open",
    )
    preparing.add_argument(
        "--image", metavar="AMI", help="of all nodes (default: AWS's newest with NVIDIA's driver)"
    )
    preparing.add_argument(
        "--out",
        type=as_path,
        default=Path("cluster.mine.yaml"),
        metavar="FILE",
        help="gets the file to use (default: %(default)s)",
    )
    return parser.parse_args(argv)


def ask_aws(work: Callable[[], None]) -> None:
    """Calls `work`, and gives errors of boto3 as ValueErrors."""
    if find_spec("boto3") is None:
        raise ValueError("AWS is asked by boto3, which is not installed: uv run --with boto3 ...")
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        work()
    except (BotoCoreError, ClientError) as error:
        raise ValueError(f"AWS must do what it is asked, but {one_line(error)}") from error


def open_session() -> Any:
    """The user's session with AWS."""
    import boto3

    return boto3.Session()


def check(arguments: argparse.Namespace) -> None:
    """Prints what is wrong, and the prices.

    Raises:
        Unready: something is wrong.
    """
    file: ClusterFile = read_cluster_file(arguments.file)
    aws = AwsCheck(file, open_session())
    num_found = 0
    for checks in (local_findings(file), aws.findings()):
        for finding in checks:
            write_output(f"{finding}\n")
            num_found += 1
    if num_found:
        raise Unready(f"{file.path} is not ready: {num_found} of the above must be mended")
    for price in aws.prices():
        write_output(f"{price}\n")
    write_output(f"{file.path} is ready; at most {file.max_workers} workers\n")


def prepare(arguments: argparse.Namespace) -> None:
    """Makes what is needed and writes the file."""
    if arguments.ssh_from is None:
        raise ValueError("prepare needs --ssh-from, your own address as 203.0.113.7/32")
    allowed = check_range(arguments.ssh_from)
    file = read_cluster_file(arguments.file)
    setup = AwsSetup(file, open_session(), lambda line: write_output(f"{line}\n"))
    text = setup.prepare(allowed, arguments.image)
    token = Path(os.path.expanduser(TOKEN))
    if not token.exists():
        token.parent.mkdir(exist_ok=True)
        token.touch(mode=0o600)
        token.write_text(secrets.token_hex(32))
        write_output(f"token: {token}, for every node\n")
    if arguments.out.exists():
        write_output(f"kept as it is: {arguments.out}; delete it to have it written anew\n")
    else:
        replace_file(arguments.out, text)
        write_output(f"written: {arguments.out}\n")


if __name__ == "__main__":
    sys.exit(main())
