"""``python -m nivesh_lib`` and the console script ``nivesh``."""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command line; turn the errors that users can mend into one line each."""
    from nivesh_lib.cli.app import app
    from nivesh_lib.errors import NiveshError

    try:
        app()
    except NiveshError as error:
        sys.stderr.write(f"error: {error}\n")
        sys.exit(1)
    except ModuleNotFoundError as error:
        if str(error.name).startswith("nivesh_lib"):
            raise
        sys.stderr.write(
            f"error: this needs the package {error.name}, which the core does not install. "
            "Install the rest: pip install 'nivesh-workbench[workbench]'\n"
        )
        sys.exit(1)
    except OSError as error:
        place = f"{error.filename}: " if error.filename else ""
        sys.stderr.write(f"error: {place}{error.strerror or error}. Check rights and free space\n")
        sys.exit(1)


if __name__ == "__main__":
    main()
