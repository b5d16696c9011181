"""`python cli.py` from a clone is the same as the installed `dynamoe-search`."""

from dynamoe_search.cli.app import main

if __name__ == "__main__":
    main()
