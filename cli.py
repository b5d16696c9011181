"""`python cli.py` from a clone is the same as the installed `dynamoe-search`."""

from dynamoe_search.__main__ import main

if __name__ == "__main__":
    main()
