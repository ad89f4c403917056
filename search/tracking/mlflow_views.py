"""Views of MLflow's runs page that are kept in an experiment and open from a link without a click.

MLflow has no public interface for them: a view is a tag of the experiment, whose value holds the
state of the page, compressed. A test opens each in MLflow's own pages.
"""

import base64
import json
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any
from urllib.parse import quote

from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from sqlalchemy.exc import SQLAlchemyError

from search.core.pareto import SIZES_KB
from search.tracking.mlflow_models import registry_name
from search.tracking.run_content import (
    FRONT_MIOU,
    FRONT_SIZE,
    KIND_TAG,
    PATH_TAG,
    TRIAL_TAG,
    best_tag,
    kind_of,
)

TAG = "mlflow.sharedViewState."
STUDIES, FRONTS, MODELS, TRIALS = (
    "paretoseg-studies",
    "paretoseg-fronts",
    "paretoseg-models",
    "paretoseg-trials",
)
"""Keys of the views: studies as a table and their fronts as curves, models of the fronts as a
table, and all trials as charts."""
SHOWN = {
    "studies": STUDIES,
    "fronts of all studies": FRONTS,
    "models of the fronts": MODELS,
    "trials": TRIALS,
}
CHARTS = frozenset({FRONTS, TRIALS})
SAVED_MS = 1_780_000_000_000
"""The time of saving, which is the same for each writing, so that an unchanged view is one tag."""
NUM_TRIALS = 1000
"""Trials that are asked for what they vary."""
MAX_AXES = 8
"""Parameters that parallel coordinates show."""
WIDTH, WIDE = 105, 175
"""Of a column, in pixels, and of one with a sentence."""
TRAINING = "?workflowType=machine_learning"
"""Ends an address in MLflow's pages, which otherwise open on traces of language models."""
SECTION = "section"
ViewState = dict[str, Any]


def write_views(client: MlflowClient, experiment_id: str) -> None:
    """Keeps the views of an experiment, with what its trials vary."""
    known = client.get_experiment(experiment_id).tags
    for key, (name, state) in make_views(varied_params(client, experiment_id)).items():
        text = base64.b64encode(zlib.compress(json.dumps(state).encode(), 9)).decode()
        value = json.dumps({"name": name, "createdAt": SAVED_MS, "state": f"deflate;{text}"})
        if known.get(TAG + key) != value:
            client.set_experiment_tag(experiment_id, TAG + key, value)


def varied_params(client: MlflowClient, experiment_id: str) -> list[str]:
    """The short names of what the trials of an experiment vary, those of the most trials first.

    Runs of version 0.2 have no tag for their kind, which the views need, and get it.
    """
    found = Counter[str]()
    for run in client.search_runs([experiment_id], max_results=NUM_TRIALS):
        if TRIAL_TAG in run.data.tags and KIND_TAG not in run.data.tags:
            client.set_tag(run.info.run_id, KIND_TAG, kind_of(run.data.tags[TRIAL_TAG]))
        tags = (tag for tag in run.data.tags if tag.startswith(PATH_TAG))
        found.update(tag.removeprefix(PATH_TAG) for tag in tags)
    return [name for name, _ in found.most_common()]


def view_path(experiment_id: str, key: str) -> str:
    """The path of a view in MLflow's pages.

    It names nothing else: with a filter or an order in it MLflow would not open the view.
    """
    mode = "CHART" if key in CHARTS else "TABLE"
    return (
        f"#/experiments/{experiment_id}/runs{TRAINING}"
        f"&viewStateShareKey={key}&compareRunsMode={mode}"
    )


def fallback_path(experiment_id: str) -> str:
    """A path with filter and order for a version of MLflow that keeps views in another form."""
    return (
        f"#/experiments/{experiment_id}/runs{TRAINING}"
        "&searchFilter=tags.front%20%3D%20%27true%27"
        "&orderByKey=metrics.%60size_bytes%60&orderByAsc=true"
    )


def make_views(params: Sequence[str]) -> dict[str, tuple[str, ViewState]]:
    """By key, the name and the state of each view."""
    within = [f"miou_within.{kilobytes:04d}KB" for kilobytes in SIZES_KB]
    studies = [
        "metrics.`hypervolume`",
        *(f"tags.`{best_tag(kilobytes)}`" for kilobytes in SIZES_KB),
        "metrics.`best_miou`",
        "params.`space`",
        "params.`samples`",
        "metrics.`device_seconds`",
    ]
    models = [
        *(f"metrics.`{name}`" for name in ("size_bytes", "miou", "latency_ms")),
        *(f"params.`{name}`" for name in params[:MAX_AXES]),
    ]
    by_hypervolume = {"orderByKey": "metrics.`hypervolume`", "orderByAsc": False}
    by_size = {"orderByKey": "metrics.`size_bytes`", "orderByAsc": True}
    by_miou = {"orderByKey": "metrics.`miou`", "orderByAsc": False}
    return {
        STUDIES: (
            "Studies",
            {"searchFilter": "tags.kind = 'study'", **by_hypervolume, **table(studies)},
        ),
        FRONTS: (
            "Fronts of all studies",
            {
                "searchFilter": "tags.kind = 'study'",
                **by_hypervolume,
                **charts(
                    [
                        line(FRONT_MIOU, over=FRONT_SIZE),
                        line("hypervolume"),
                        {"type": "BAR", "metricKey": "best_miou"},
                        *({"type": "BAR", "metricKey": name} for name in within),
                    ],
                    columns=2,
                ),
            },
        ),
        MODELS: (
            "Models of the fronts",
            {"searchFilter": "tags.front = 'true'", **by_size, **table(models)},
        ),
        TRIALS: (
            "Trials",
            {
                "searchFilter": "tags.kind = 'trial'",
                **by_miou,
                **charts(
                    [
                        {
                            "type": "SCATTER",
                            "xaxis": {"key": "size_bytes", "type": "METRIC"},
                            "yaxis": {"key": "miou", "type": "METRIC"},
                        },
                        {
                            "type": "PARALLEL",
                            "selectedParams": list(params[:MAX_AXES]),
                            "selectedMetrics": ["size_bytes", "miou"],
                            "showAllRuns": True,
                        },
                    ],
                    columns=1,
                ),
            },
        ),
    }


def table(columns: Sequence[str]) -> ViewState:
    """The columns of a table, in this order."""
    return {
        "selectedColumns": list(columns),
        "columnOrder": ["attributes.`Run Name`", *columns, "runDateAndNestInfo", "duration"],
        "columnWidths": {name: WIDE if name.startswith("tags") else WIDTH for name in columns},
    }


def charts(found: Sequence[ViewState], columns: int) -> ViewState:
    """Charts of all runs, in one section."""
    section = {"uuid": SECTION, "name": "paretoseg", "display": True}
    return {
        "runsHiddenMode": "SHOW_ALL",
        "compareRunSections": [{**section, "columns": columns, "cardHeight": 400}],
        "compareRunCharts": [
            {"uuid": f"chart-{number}", "metricSectionId": SECTION, **chart}
            for number, chart in enumerate(found)
        ],
    }


def line(metric: str, over: str | None = None) -> ViewState:
    """A metric as a line, without smoothing, over another metric or over its steps."""
    axis = {"xAxisKey": "metric", "selectedXAxisMetricKey": over} if over else {"xAxisKey": "step"}
    points = {"lineSmoothness": 0, "displayPoints": True}
    return {"type": "LINE", "metricKey": metric, **points, **axis}


def say_views(uri: str, address: str) -> Iterator[str]:
    """A line with a link for each view of each data set; the store's pages are at `address`."""
    client = MlflowClient(uri)
    for experiment in client.search_experiments():
        studies = client.search_runs([experiment.experiment_id], f"tags.`{TRIAL_TAG}` = 'study'")
        if not studies:
            continue
        number = "1 study" if len(studies) == 1 else f"{len(studies)} studies"
        yield f"{experiment.name}: {number}"
        try:
            write_views(client, experiment.experiment_id)
            for name, key in SHOWN.items():
                yield f"  {name:22} {address}/{view_path(experiment.experiment_id, key)}"
        except (MlflowException, SQLAlchemyError):  # the store is busy, or may only be read
            path = fallback_path(experiment.experiment_id)
            yield f"  {'trials of the fronts':22} {address}/{path}"
        registry = registry_name(experiment.name)
        if client.search_registered_models(f"name = '{registry}'"):
            yield f"  {'registered models':22} {address}/#/models/{quote(registry)}{TRAINING}"
