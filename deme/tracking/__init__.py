"""A mirror of run directories in experiment trackers: what is sent, and each tracker.

Run directories are the truth. `read_record` says what is sent of one, each tracker how. A tracker's
library is imported when it is used.
"""

from deme.tracking.mirror import Mirror
from deme.tracking.read import FOLDER, read_record, settings_of
from deme.tracking.record import Artifact, Point, Record, Table, tracker_id

__all__ = [
    "FOLDER",
    "Artifact",
    "Mirror",
    "Point",
    "Record",
    "Table",
    "read_record",
    "settings_of",
    "tracker_id",
]
