"""When a deployment runs, as the command line says it."""

from __future__ import annotations

import argparse
import re
from datetime import timedelta
from zoneinfo import available_timezones

from cai.errors import ConfigError

UNITS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}


def schedule_asked(arguments: argparse.Namespace) -> tuple[str | None, int | None, str]:
    """Cron, interval in seconds and time zone; a cron is only looked at by Prefect, later. Raises ConfigError."""
    if arguments.cron is not None and arguments.interval is not None:
        raise ConfigError("--cron and --interval: choose one")
    if arguments.timezone is not None and arguments.cron is None:
        raise ConfigError("--timezone is for --cron; leave it out, or give --cron")
    if arguments.timezone is not None and arguments.timezone not in available_timezones():
        raise ConfigError(
            f"--timezone {arguments.timezone}: there is no such zone; write it like Europe/Berlin"
        )
    interval = None if arguments.interval is None else interval_seconds(arguments.interval)
    return arguments.cron, interval, arguments.timezone or "UTC"


def interval_seconds(text: str) -> int:
    """`90`, `90s`, `15m`, `1h` or `1d` in seconds. Raises ConfigError."""
    found = re.fullmatch(r"([0-9]{1,9})([smhd]?)", text)
    seconds = int(found[1]) * UNITS[found[2]] if found else 0
    if not 0 < seconds <= timedelta(days=3660).total_seconds():
        raise ConfigError(f"--interval {text}: not a time; write seconds, or 15m, 1h, 1d")
    return seconds
