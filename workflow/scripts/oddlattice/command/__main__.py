"""`python -m oddlattice.command`: the program `oddlattice`."""

from oddlattice.command.start import main

main()
