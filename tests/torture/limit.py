"""``python -m tests.torture.limit BYTES ARGUMENT…``: ``nivesh`` with files of so many bytes."""

from __future__ import annotations

import resource
import sys

from nivesh_lib.__main__ import main

if __name__ == "__main__":
    limit = int(sys.argv[1])
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    sys.argv = ["nivesh", *sys.argv[2:]]
    main()
