"""Collects what MLflow's searches give page by page."""

from collections.abc import Callable
from typing import TypeVar

from mlflow.store.entities import PagedList

Found = TypeVar("Found")


def all_pages(search: Callable[..., PagedList[Found]]) -> list[Found]:
    """All results of a search, which takes a `page_token`."""
    found: list[Found] = []
    token: str | None = None
    while True:
        page = search(page_token=token)
        found += page
        token = page.token
        if not token:
            return found
