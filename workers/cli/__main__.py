"""``python -m workers.cli`` is ``fleet``."""

from workers.cli import main

if __name__ == "__main__":
    main()
