"""`python -m rcdm` is the command `rcdm`."""

from rcdm.cli import main

main()
