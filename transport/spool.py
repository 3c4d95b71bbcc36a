"""The spool: a log in a directory on this host. The sidecar writes it; the enricher or the publisher reads it.

spool_writer.py appends, bounds and repairs; spool_reader.py reads; segment.py is what every byte on disk means.
"""

from transport.config import SpoolConfig
from transport.spool_reader import SpoolReader
from transport.spool_writer import RepairReport, SpoolWriter

__all__ = ["RepairReport", "SpoolConfig", "SpoolReader", "SpoolWriter"]
