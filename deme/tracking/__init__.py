"""Send run directories to experiment trackers: what is sent, and one module per tracker.

Run directories are the source. `read_record` determines what is sent of a run, and each tracker
how. The library of a tracker is imported when it is used.
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
