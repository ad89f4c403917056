"""A study's journal in an object store: segments, to which the driver adds while it writes.

An object cannot be appended to. A segment holds some lines of the journal, and its name is their
place in it, in bytes. The journal itself is in the driver's mirror. What a driver has appended but
not uploaded when its machine is lost is a moment of the study; on the same machine, where the
journal outlives the driver, nothing is lost.
"""

import logging
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from search.storage.layout import JOURNAL, SEGMENTS
from trainables.core.mirror import NUM_CONNECTIONS, Remote, remote_of, shown

log = logging.getLogger(__name__)
RETRY_S = 5.0
"""Seconds until an upload is tried again that has failed."""
MERGED = 256
"""Segments that are made one."""
FLUSH_S = 60.0
"""Seconds that whoever needs all lines in the object store waits for them."""


class SegmentUpload(threading.Thread):
    """Uploads what is appended to a journal, as soon as what was appended before is uploaded."""

    def __init__(self, journal: Path, segments: Remote, uploaded: int) -> None:
        super().__init__(name="upload of the journal", daemon=True)
        self.journal, self.segments = journal, segments
        self.uploaded = uploaded
        self.length = journal.stat().st_size
        self.starts: list[int] = []
        self.changed = threading.Condition()
        self.problem = ""

    def on_appended(self) -> None:
        """Is called when whole lines have been appended to the journal."""
        with self.changed:
            self.length = self.journal.stat().st_size
            self.changed.notify_all()

    def flush(self) -> None:
        """Waits until all lines are in the object store.

        Raises:
            OSError: they are not in time.
        """
        with self.changed:
            if not self.changed.wait_for(lambda: self.uploaded >= self.length, FLUSH_S):
                raise OSError(
                    f"{shown(self.journal)} must be uploaded in {FLUSH_S:g} s, but {self.problem}"
                )

    def run(self) -> None:
        while True:
            with self.changed:
                self.changed.wait_for(lambda: self.uploaded < self.length)
                start, end = self.uploaded, self.length
            try:
                with self.journal.open("rb") as file:
                    file.seek(start)
                    put_segment(self.segments, start, file.read(end - start))
            except OSError as error:
                self.problem = str(error)
                log.warning("the journal is not uploaded: %s", error)
                time.sleep(RETRY_S)
                continue
            with self.changed:
                self.uploaded = end
                self.changed.notify_all()
            self.starts.append(start)
            if len(self.starts) == MERGED:
                self._merge(end)

    def _merge(self, end: int) -> None:
        """Makes the latest segments one: readers ask for each of them."""
        first, *others = self.starts
        self.starts = []
        try:
            with self.journal.open("rb") as file:
                file.seek(first)
                put_segment(self.segments, first, file.read(end - first))
            for start in others:
                self.segments.child(segment_name(start)).delete()
        except OSError as error:  # whoever reads skips what is there twice
            log.warning("segments of the journal were not merged: %s", error)


uploads: dict[Path, SegmentUpload] = {}
"""By journal, the uploads of this process."""


def upload_appended(journal: Path) -> None:
    """Has what was appended to a journal uploaded, where it is in a mirror."""
    if (upload := uploads.get(journal)) is not None:
        upload.on_appended()


def flush_journal(folder: Path) -> None:
    """Waits until the whole journal of a study is in the object store that its folder mirrors.

    Raises:
        OSError: the object store does not take it.
    """
    if (upload := uploads.get(folder / JOURNAL)) is not None:
        upload.flush()


def download_journal(folder: Path) -> None:
    """Brings the journal of a study up to date, where its folder is in a mirror.

    What this machine has is kept if the object store only lacks the end of it, as after a driver
    was killed here.

    Raises:
        ValueError: a segment is missing.
        OSError: the object store does not answer.
    """
    if (remote := remote_of(folder)) is None or folder / JOURNAL in uploads:
        return
    content = read_segments(remote.child(SEGMENTS))
    journal = folder / JOURNAL
    here = journal.read_bytes() if journal.is_file() else b""
    if content and not here.startswith(content):
        folder.mkdir(parents=True, exist_ok=True)
        journal.write_bytes(content)


def begin_upload(folder: Path) -> None:
    """Has the journal of a study, which was downloaded, uploaded as this process appends to it.

    The segments of earlier drivers are made one: there is one for every few events.
    """
    if (remote := remote_of(folder)) is None or folder / JOURNAL in uploads:
        return
    segments, journal = remote.child(SEGMENTS), folder / JOURNAL
    journal.touch()
    if len(earlier := sorted(segments.files())) > 1:
        put_segment(segments, 0, journal.read_bytes())
        for name in earlier:
            if name != segment_name(0):
                segments.child(name).delete()
    uploaded = sum(info.size for info in segments.files().values())
    uploads[journal] = SegmentUpload(journal, segments, uploaded)
    uploads[journal].start()


def read_segments(segments: Remote) -> bytes:
    """The content of a journal.

    A driver that died while it made several segments one has left some that overlap.

    Raises:
        ValueError: a segment is missing.
    """
    while True:
        names = sorted(segments.files())
        try:
            with ThreadPoolExecutor(NUM_CONNECTIONS) as threads:
                pieces = list(threads.map(lambda name: segments.child(name).read(), names))
            break
        except FileNotFoundError:  # its driver has just made it one with others
            continue
    content = bytearray()
    for name, piece in zip(names, pieces, strict=True):
        start = int(name.split(".")[0])
        if start > len(content):
            raise ValueError(
                f"the segments of a journal must follow one another, but after {len(content)} "
                f"bytes comes {segments.key}/{name}"
            )
        content += piece[len(content) - start :]
    return bytes(content)


def put_segment(segments: Remote, start: int, content: bytes) -> None:
    segments.child(segment_name(start)).write(content)


def segment_name(start: int) -> str:
    """The name of the segment that begins at a byte of the journal."""
    return f"{start:012d}.log"
