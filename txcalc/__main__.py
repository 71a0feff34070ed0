"""``python -m txcalc``."""

from txcalc.cli.app import main

main()
