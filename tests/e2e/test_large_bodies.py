"""Large bodies, one and many at once, against a server in a process of its own: its memory, and what others notice.

Linux keeps the most memory that a process ever had (VmHWM) and can be told to begin anew.
"""

from __future__ import annotations

import os
import sys

import pytest

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")

BODY_BYTES = 120_000_000
NUM_BODIES = 12
SHARE_BYTES = 512 << 20
"""Of one key alone, by default."""
MAX_STAYING_KB = 50 << 10
MAX_SECONDS = 0.25
"""That a GET of another tenant may take, all but one in a hundred; several times that on a machine that is busy."""
BUSY_FACTOR = float(os.environ.get("EZTINKER_BUSY_FACTOR", "4"))
"""How much longer than on a quiet machine anything may take."""
