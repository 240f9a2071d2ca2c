"""``python -m workers.ingress``: the ingress as a process of its own."""

import sys

from custody.settings.environment import SettingsError, load_settings
from workers.ingress.server import serve
from workers.telemetry.process import begin


def main() -> int:
    """Serve until told to stop. Exit code 2 for a setting that is missing or wrong."""
    try:
        settings = load_settings()
        begin(settings, "ingress")
        serve(settings)
    except SettingsError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
