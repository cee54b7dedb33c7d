"""``python -m nivesh_lib`` and the console script ``nivesh``."""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command line; turn the errors that users can mend into one line each."""
    from nivesh_lib.cli.app import app
    from nivesh_lib.errors import NiveshError
    from nivesh_lib.reproducibility import disable_telemetry
    from nivesh_lib.terminal import printable_lines

    disable_telemetry()  # before a package reads its variables; nothing looks into the hub
    try:
        app()
        return
    except NiveshError as error:
        message = str(error)
    except ModuleNotFoundError as error:
        if str(error.name).startswith("nivesh_lib"):
            raise
        message = (
            f"this needs the package {error.name}, which the core does not install. "
            "Install the rest: pip install 'nivesh-workbench[workbench]'"
        )
    except OSError as error:
        place = f"{error.filename}: " if error.filename else ""
        message = f"{place}{error.strerror or error}. Check rights and free space"
    sys.stderr.write(f"error: {printable_lines(message)}\n")
    sys.exit(1)


if __name__ == "__main__":
    main()
