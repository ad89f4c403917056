"""Segments images with an exported model: index masks and colour overlays.

python -m search.predict MODEL IMAGE|FOLDER --out DIR
"""

import argparse
import sys

from trainables.core.command_line import Parser, as_path
from trainables.core.terminal import track
from trainables.data.image_file import read_image
from trainables.deploy.model_card import read_model_card
from trainables.deploy.runtime import open_model
from trainables.deploy.segmenter import find_images, left_out, overlay, segment

EXAMPLES = """For IMAGE.jpg, DIR gets IMAGE.png (one class index per pixel, in VOC's palette) and
IMAGE-overlay.jpg, both of the image's own size.

exit status: 0 done; 1 an image could not be read, the others are done; 2 bad input.
"""


def main(argv: list[str] | None = None) -> int:
    """Segments what the command line names and gives the exit status."""
    arguments = parse(argv)
    try:
        network, card = open_model(arguments.model), read_model_card(arguments.model)
        images = find_images(arguments.images)
        if arguments.out.resolve() == images[0].resolve().parent:
            raise ValueError(
                f"--out must be another folder than the images', but got {arguments.out}"
            )
        arguments.out.mkdir(parents=True, exist_ok=True)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    unread = 0
    for path in track(images, "segmenting"):
        try:
            image = read_image(path)
        except ValueError as error:
            print(f"error: {error}", file=sys.stderr)
            unread += 1
            continue
        try:
            mask = segment(network, card.preprocessing.longest_side, image)
        except ValueError as error:
            print(f"error: {error}", file=sys.stderr)
            return 2
        try:
            mask.save(arguments.out / f"{path.stem}.png")
            overlay(image, mask).save(arguments.out / f"{path.stem}-overlay.jpg", quality=92)
        except OSError as error:
            print(f"error: --out must be writable, but: {error}", file=sys.stderr)
            return 2
    print(f"{len(images) - unread} of {len(images)} images segmented in {arguments.out}")
    if others := left_out(arguments.images):
        print(f"left out, because they are no images: {others}")
    return 1 if unread else 0


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = Parser(
        "python -m search.predict",
        "Segment images with a model that search.export wrote.",
        EXAMPLES,
    )
    add = parser.add_argument
    add("model", type=as_path, metavar="MODEL", help=".safetensors or .onnx, its card beside it")
    add("images", type=as_path, metavar="IMAGE|FOLDER", help="an image, or a folder of images")
    add("--out", type=as_path, required=True, metavar="DIR", help="gets masks and overlays")
    return parser.parse_args(argv)


if __name__ == "__main__":
    sys.exit(main())
