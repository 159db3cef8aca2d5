"""`python -m ttt_retrofit_cli`."""

from . import main

main()
