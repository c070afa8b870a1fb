"""`python -m ppd`."""

from .cli import main

raise SystemExit(main())
