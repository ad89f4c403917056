"""Looks at a finished study in Python, as in a notebook: table, plot, and a model of its front.

    python -m search.run --space qkd
    python examples/look_at_a_study.py studies/qkd-shapes IMAGE OUT

OUT gets the plot of the front and the classes of the image, by the best model of at most 300 KB.
"""

import sys
from pathlib import Path

from PIL import Image

from search import open_study


def main(folder: Path, image: Path, out: Path) -> None:
    study = open_study(folder)
    front = study.front()
    print(front[["trial_id", "miou", "size_bytes"]].to_string(index=False))
    study.plot().savefig(out / "front.png")

    small = front[front["size_bytes"] <= 300_000]
    best = small.loc[small["miou"].idxmax()]
    model = study.model(best["trial_id"])
    classes = model.predict(image)
    shown = sorted({model.class_names[index] for index in classes.ravel()})
    print(f"trial {best['trial_id']} sees {', '.join(shown)}")
    Image.fromarray(classes).save(out / "classes.png")


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
